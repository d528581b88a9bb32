package measure

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"
)

// listeningSockets yields "tcp 0.0.0.0:22" and its like for every socket of the first process's network namespace that waits
// for peers: TCP in state LISTEN; with udp, UDP that is not connected; with unix, listening paths; with raw, raw and packet
// sockets, which hear without listening. Values are the owner's uid and, with owners, the programs that hold the socket; "?" if
// no process is seen to.
func (c *checker) listeningSockets() {
	var holders map[string][]string
	if c.args.Has("owners") {
		holders = c.socketHolders()
	}
	add := func(key, uid, inode string) {
		value := "uid " + uid
		if uid == "" {
			value = "listening"
		}
		c.add(key, value)
		if holders == nil {
			return
		}
		exes := holders[inode]
		if len(exes) == 0 {
			exes = []string{"?"}
		}
		for _, e := range exes {
			c.add(key, "program "+e)
		}
	}
	c.internet("tcp", "0A", false, add)
	c.internet("tcp6", "0A", true, add)
	if c.args.Has("udp") {
		c.internet("udp", "07", false, add)
		c.internet("udp6", "07", true, add)
	}
	if c.args.Has("raw") {
		c.internet("raw", "07", false, add)
		c.internet("raw6", "07", true, add)
		c.packets(add)
	}
	if c.args.Has("unix") {
		c.unixSockets(add)
	}
}

// table reads a table of /proc/1/net, without its heading. A protocol the kernel doesn't have has no table; tcp it has.
func (c *checker) table(name string, fields int, each func(f []string)) {
	first := true
	code := c.lines("/proc/1/net/"+name, func(line []byte) bool {
		f := strings.Fields(string(line))
		if first {
			first = false
			return true
		}
		if len(f) < fields {
			c.fail(name+" table", CodeContent.Code)
			return false
		}
		each(f)
		return true
	})
	if code != "" && (!gone(code) || name == "tcp") {
		c.fail(name+" table", code)
	}
}

func (c *checker) internet(name, state string, v6 bool, add func(key, uid, inode string)) {
	c.table(name, 10, func(f []string) {
		if f[3] != state {
			return
		}
		addr, ok := address(f[1], v6)
		if !ok {
			c.fail(name+" table", CodeContent.Code)
			return
		}
		add(name+" "+addr, f[7], f[9])
	})
}

// address reads "0100007F:0016": the address in 32-bit words of the machine's byte order, which is taken to be little-endian,
// and the port.
func address(s string, v6 bool) (string, bool) {
	host, port, ok := strings.Cut(s, ":")
	b, err := hex.DecodeString(host)
	p, err2 := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || err2 != nil || len(b) != 4 && !v6 || len(b) != 16 && v6 {
		return "", false
	}
	for i := 0; i < len(b); i += 4 {
		binary.BigEndian.PutUint32(b[i:], binary.LittleEndian.Uint32(b[i:]))
	}
	a, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a, uint16(p)).String(), true
}

func (c *checker) packets(add func(key, uid, inode string)) {
	c.table("packet", 9, func(f []string) { // sk RefCnt Type Proto Iface R Rmem User Inode
		add("packet type="+f[2]+" protocol="+f[3], f[7], f[8])
	})
}

func (c *checker) unixSockets(add func(key, uid, inode string)) {
	const accepts = 1 << 16               // __SO_ACCEPTCON
	c.table("unix", 7, func(f []string) { // Num RefCount Protocol Flags Type St Inode [Path]
		flags, err := strconv.ParseUint(f[3], 16, 32)
		if err != nil {
			c.fail("unix table", CodeContent.Code)
			return
		}
		if flags&accepts != 0 {
			add("unix "+strings.Join(f[7:], " "), "", f[6])
		}
	})
}

// socketHolders returns, by the number of a socket's inode, the programs of the processes that have it open.
func (c *checker) socketHolders() map[string][]string {
	out := make(map[string][]string)
	c.descriptors(func(p process, _, target string) {
		inode, ok := strings.CutPrefix(target, "socket:[")
		if !ok {
			return
		}
		inode = strings.TrimSuffix(inode, "]")
		out[inode] = append(out[inode], p.exe(c))
	})
	return out
}

// descriptors calls each for every descriptor of every process, with what it leads to.
func (c *checker) descriptors(each func(p process, fd, target string)) {
	c.processes(func(p process) {
		dir := p.dir + "/fd"
		code := c.list(dir, func(fd []byte, _ uint8) {
			target, code := c.link(dir + "/" + string(fd))
			switch {
			case code == "":
				each(p, string(fd), target)
			case !gone(code):
				c.fail("process "+p.comm(c), code)
			}
		})
		if code != "" && !gone(code) {
			c.fail("process "+p.comm(c), code)
		}
	})
}

// bpf yields "program type=N tag=HEX" for every BPF program a process holds a descriptor of, directly or through a link; "link
// TYPE" likewise; and "pinned PATH" for what is pinned below the paths (default /sys/fs/bpf). Values are the programs of the
// processes. What hangs on a cgroup, an interface or a perf event and is held by no process is not seen.
func (c *checker) bpf() {
	c.descriptors(func(p process, fd, target string) {
		if !strings.HasPrefix(target, "anon_inode:") || !strings.Contains(target, "bpf") {
			return
		}
		info := make(map[string]string)
		code := c.lines(p.dir+"/fdinfo/"+fd, func(line []byte) bool {
			k, v, _ := bytes.Cut(line, []byte(":"))
			if _, twice := info[string(k)]; !twice && len(info) < 64 {
				info[string(k)] = strings.TrimSpace(string(v))
			}
			return true
		})
		switch {
		case gone(code):
		case code != "":
			c.fail("process "+p.comm(c), code)
		case info["link_type"] != "":
			c.add("link "+info["link_type"]+" tag="+info["prog_tag"], p.exe(c))
		case info["prog_tag"] != "":
			c.add("program type="+info["prog_type"]+" tag="+info["prog_tag"], p.exe(c))
		}
	})
	for _, dir := range c.paths("/sys/fs/bpf") {
		c.walk(dir, func(p []byte, kind uint8) {
			if kind != EntryDir {
				c.add("pinned "+string(p), "pinned")
			}
		})
	}
}
