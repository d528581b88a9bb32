package measure

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"strings"

	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// maxFact bounds a file of /proc or /sys that holds one fact.
const maxFact = 64 << 10

// fact adds an item of a file's trimmed content. A file that isn't there, where that is allowed, is the value "absent".
func (c *checker) fact(key, path string, optional bool) {
	b, code := c.read(path, maxFact)
	switch {
	case code == CodeMissing.Code && optional:
		c.add(key, "absent")
	case code != "":
		c.fail(key, code)
	default:
		c.add(key, string(bytes.TrimSpace(b)))
	}
}

// modules yields "module NAME" for every loaded module: its taint flags (E unsigned, O out of tree, F forced, P proprietary),
// version of its source and hash of its notes (the build id); "hidden NAME" for one that /sys knows and /proc/modules doesn't;
// and the kernel's own taint, lockdown and demand for signatures.
func (c *checker) modules() {
	listed := make(map[string]bool)
	code := c.lines("/proc/modules", func(line []byte) bool {
		f := strings.Fields(string(line)) // name size uses users state address [(taint)]
		if len(f) < 6 || strings.ContainsAny(f[0], "/\x00") {
			c.fail("list", CodeContent.Code)
			return false
		}
		listed[f[0]] = true
		taint := "-"
		if len(f) > 6 {
			taint = strings.Trim(f[6], "()+-")
		}
		c.add("module "+f[0], fmt.Sprintf("taint %s\n%s", taint, c.moduleIdentity(f[0])))
		return true
	})
	switch {
	case code == CodeMissing.Code:
		// A kernel without modules has no such file; one whose /proc is somebody's fake has no version either.
		if _, code := c.read("/proc/version", maxFact); code != "" {
			c.fail("list", code)
		}
	case code != "":
		c.fail("list", code)
	}
	c.hiddenModules(listed)
	c.fact("kernel tainted", "/proc/sys/kernel/tainted", false)
	c.fact("kernel sig_enforce", "/sys/module/module/parameters/sig_enforce", true)
	c.fact("kernel lockdown", "/sys/kernel/security/lockdown", true)
	c.fact("kernel modules_disabled", "/proc/sys/kernel/modules_disabled", true)
}

func (c *checker) moduleIdentity(name string) string {
	src, code := c.read("/sys/module/"+name+"/srcversion", maxFact)
	if code != "" {
		src = []byte("-")
	}
	notes := "-"
	if b, code := c.read("/sys/module/"+name+"/notes/.note.gnu.build-id", maxFact); code == "" {
		notes = fmt.Sprintf("%x", sha256.Sum256(b))
	}
	return fmt.Sprintf("srcversion %s\nbuild-id %s", bytes.TrimSpace(src), notes)
}

// hiddenModules compares with /sys/module, where a loaded module has a state of initialisation and a built-in one has not.
func (c *checker) hiddenModules(listed map[string]bool) {
	code := c.list("/sys/module", func(name []byte, kind uint8) {
		if listed[string(name)] || kind != EntryDir {
			return
		}
		if b, code := c.read("/sys/module/"+string(name)+"/initstate", maxFact); code == "" && bytes.Equal(bytes.TrimSpace(b), []byte("live")) {
			// One that was loaded since the list was read is in it now.
			again := false
			c.lines("/proc/modules", func(line []byte) bool {
				again = bytes.HasPrefix(line, append(bytes.Clone(name), ' '))
				return !again
			})
			if !again {
				c.add("hidden "+string(name), "live")
			}
		}
	})
	if code != "" {
		c.fail("/sys/module", code)
	}
}

// commandLine yields one item per parameter of the kernel; one that stands several times has all its values, in order. Quotes
// group as the kernel has it.
func (c *checker) commandLine() {
	b, code := c.read("/proc/cmdline", maxFact)
	if code != "" {
		c.fail("list", code)
		return
	}
	for _, p := range splitCommandLine(strings.TrimRight(string(b), "\n\x00")) {
		name, value, _ := strings.Cut(p, "=")
		c.follow(strings.Trim(name, `"`), value)
	}
}

func splitCommandLine(s string) (out []string) {
	quoted, from := false, -1
	for i := 0; i <= len(s); i++ {
		if i == len(s) || !quoted && (s[i] == ' ' || s[i] == '\t' || s[i] == '\n') {
			if from >= 0 {
				out = append(out, s[from:i])
			}
			from = -1
			continue
		}
		if s[i] == '"' {
			quoted = !quoted
		}
		if from < 0 {
			from = i
		}
	}
	return out
}

// sysctls yields one item per name asked for, whether or not it exists. As in sysctl(8), dots part a name's elements unless
// it has slashes.
func (c *checker) sysctls() {
	for _, name := range c.args.Names {
		path := name
		if !strings.Contains(name, "/") {
			path = strings.ReplaceAll(name, ".", "/")
		}
		p := "/proc/sys/" + strings.TrimPrefix(path, "/")
		if err := plan.CheckPath([]byte(p)); err != nil {
			c.fail(name, CodePath.Code)
			continue
		}
		b, code := c.read(p, maxFact)
		if code != "" {
			c.fail(name, code)
			continue
		}
		c.add(name, strings.Join(strings.Fields(string(b)), " "))
	}
}

// mounts yields one item per mount point of the first process's namespace: root within the file system, type, source, flags and
// options; several mounts on one point one after another, the topmost last.
func (c *checker) mounts() {
	within := c.paths()
	code := c.lines("/proc/1/mountinfo", func(line []byte) bool {
		before, after, ok := bytes.Cut(line, []byte(" - "))
		f, g := strings.Fields(string(before)), strings.Fields(string(after))
		if !ok || len(f) < 6 || len(g) < 2 {
			c.fail("list", CodeContent.Code)
			return false
		}
		point := unescapeMount(f[4])
		if !c.wanted([]byte(point), within) {
			return true
		}
		super := ""
		if len(g) > 2 {
			super = g[2]
		}
		c.follow(point, fmt.Sprintf("%s %s root=%s %s %s", g[0], g[1], f[3], f[5], super))
		return true
	})
	if code != "" {
		c.fail("list", code)
	}
}

// wanted says whether a path lies below one of those asked for, and below no exclude; nothing asked for is everything.
func (c *checker) wanted(p []byte, within [][]byte) bool {
	if c.scope.Excluded(p) {
		return false
	}
	for _, w := range within {
		if plan.Within(p, w) {
			return true
		}
	}
	return len(within) == 0
}

// unescapeMount undoes \040 and its like in mountinfo and maps.
func unescapeMount(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && isOctal(s[i+1:i+4]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func isOctal(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '7' {
			return false
		}
	}
	return s[0] <= '3'
}

// gone says whether a code means that what was looked at is not there any more.
func gone(code rats.Code) bool { return code == CodeMissing.Code }
