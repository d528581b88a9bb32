package measure

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/assay-attest/assay/rats"
)

// deletedMark is what the kernel appends to the name of a file that has none any more.
const deletedMark = " (deleted)"

// process is one process as /proc shows it.
type process struct {
	dir string // /proc/PID
}

// processes calls each for every process. That /proc shows at least the first one is asked for: a /proc that hides the others'
// processes from this user would look like a machine without any.
func (c *checker) processes(each func(p process)) {
	var pids []string
	code := c.list("/proc", func(name []byte, kind uint8) {
		if _, err := strconv.ParseUint(string(name), 10, 31); err == nil && kind == EntryDir {
			pids = append(pids, string(name))
		}
	})
	if code != "" {
		c.fail("processes", code)
		return
	}
	if _, code := c.read("/proc/1/stat", maxFact); code != "" {
		c.fail("process 1", code)
	}
	for _, pid := range pids {
		if c.over() {
			return
		}
		each(process{dir: "/proc/" + pid})
	}
}

// gone says whether the process has ended meanwhile: then nothing about it is an error.
func (p process) gone(c *checker) bool {
	b, code := c.read(p.dir+"/stat", maxFact)
	if gone(code) {
		return true
	}
	_, state, ok := bytes.Cut(b, []byte(") "))
	return ok && len(state) > 0 && (state[0] == 'Z' || state[0] == 'X')
}

// comm returns the name a process gave itself: a hint, for people.
func (p process) comm(c *checker) string {
	b, code := c.read(p.dir+"/comm", maxFact)
	if code != "" {
		return "?"
	}
	return string(bytes.TrimRight(b, "\n"))
}

// exe returns the path of the program, with the mark of a deleted one; without one (a thread of the kernel) its name in
// brackets.
func (p process) exe(c *checker) string {
	s, code := c.link(p.dir + "/exe")
	if code != "" {
		return "[" + p.comm(c) + "]"
	}
	return s
}

// foreign says whether the process sees other mounts than whoever reads here, so that its paths mean other files.
func (p process) foreign(c *checker) bool {
	own, code := c.link("/proc/self/ns/mnt")
	theirs, code2 := c.link(p.dir + "/ns/mnt")
	return code == "" && code2 == "" && own != theirs
}

// identity is what a file is known by.
type identity struct{ dev, ino uint64 }

func identityOf(st Stat) identity { return identity{st.Dev, st.Ino} }

// device makes a device number of "fd:01" as Linux packs it into st_dev.
func device(s string) (uint64, bool) {
	major, minor, ok := strings.Cut(s, ":")
	a, err := strconv.ParseUint(major, 16, 32)
	b, err2 := strconv.ParseUint(minor, 16, 32)
	if !ok || err != nil || err2 != nil {
		return 0, false
	}
	return b&0xff | a&0xfff<<8 | b&^0xff<<12 | a&^0xfff<<32, true
}

// standing says what has become of the file that had path when it was executed or mapped: "" if it is still that file.
func (c *checker) standing(p process, path string, was identity) (string, rats.Code) {
	if strings.HasPrefix(path, "/memfd:") || strings.HasPrefix(path, "/SYSV") || strings.HasPrefix(path, "/dev/zero") {
		return "memory", ""
	}
	st, code := c.run.system.Stat([]byte(path), false)
	switch {
	case code == "" && identityOf(st) == was:
		return "", ""
	case code != "" && !gone(code):
		return "", code
	case strings.HasSuffix(path, deletedMark):
		name := []byte(strings.TrimSuffix(path, deletedMark))
		if _, code := c.run.system.Stat(name, false); code == "" {
			return "replaced", ""
		}
		return "deleted", ""
	case p.foreign(c):
		return "foreign", ""
	case code == "":
		return "replaced", ""
	default:
		return "deleted", ""
	}
}

// executables yields findings about the programs of running processes: "deleted PATH" whose file is gone, "replaced PATH" whose
// path names another file now, "memory NAME" that never was a file, "foreign PATH" of another mount namespace. With list also
// "running PATH" for every program whose file is still the one that runs.
func (c *checker) executables() {
	c.processes(func(p process) {
		path, code := c.link(p.dir + "/exe")
		if gone(code) {
			return // a thread of the kernel, or it has ended
		}
		if code == "" {
			var st Stat
			if st, code = c.run.system.Stat([]byte(p.dir+"/exe"), true); code == "" {
				var what string
				if what, code = c.standing(p, path, identityOf(st)); code == "" {
					if what == "" && c.args.Has("list") {
						what = "running"
					}
					if what != "" {
						c.add(what+" "+strings.TrimSuffix(path, deletedMark), what)
					}
					return
				}
			}
		}
		if !p.gone(c) {
			c.fail("process "+p.comm(c), code)
		}
	})
}

// preload yields "ld.so.preload" if the file of that name holds anything, and "VARIABLE PROGRAM" for every process that was
// started with a variable by which the loader is told to load other code. Values are what it was told. A process can rewrite
// its environment: what it has loaded is for code, with the switch mapped.
func (c *checker) preload() {
	const file = "/etc/ld.so.preload"
	b, code := c.read(file, maxFact)
	switch {
	case code != "" && !gone(code):
		c.fail("ld.so.preload", code)
	case len(bytes.TrimSpace(b)) > 0:
		c.add("ld.so.preload", string(bytes.TrimSpace(b)))
	}
	c.processes(func(p process) {
		env, code := c.read(p.dir+"/environ", 4<<20)
		if code != "" {
			if !gone(code) && !p.gone(c) {
				c.fail("process "+p.comm(c), code)
			}
			return
		}
		for _, v := range bytes.Split(env, []byte{0}) {
			name, value, _ := bytes.Cut(v, []byte("="))
			switch string(name) {
			case "LD_PRELOAD", "LD_AUDIT", "LD_LIBRARY_PATH":
				if len(value) > 0 {
					c.add(string(name)+" "+p.exe(c), string(value))
				}
			}
		}
	})
}
