package measure

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/assay-attest/assay/rats"
)

func sorted[T cmp.Ordered](s iter.Seq[T]) []T { return slices.Sorted(s) }

// setuidFiles yields every regular file below the paths (default: everything but /proc and /sys) that runs with the rights of
// its owner or group; with capabilities also those that carry capabilities. Values: mode, owner, capabilities.
func (c *checker) setuidFiles() {
	if len(c.args.Paths) == 0 {
		c.scope.Exclude = append(slices.Clone(c.scope.Exclude), []byte("/proc"), []byte("/sys"))
	}
	for _, dir := range c.paths("/") {
		c.walk(dir, func(p []byte, kind uint8) {
			if kind != EntryFile {
				return
			}
			st, code := c.run.system.Stat(p, false)
			if code != "" {
				if !gone(code) { // a file that vanishes runs nothing
					c.fail(string(p), code)
				}
				return
			}
			if st.Mode&0o6000 != 0 {
				c.add(string(p), fmt.Sprintf("mode %04o owner %d %d", st.Mode&0o7777, st.UID, st.GID))
			}
			if c.args.Has("capabilities") {
				c.capabilities(p)
			}
		})
	}
}

func (c *checker) capabilities(p []byte) {
	list, code := c.run.xattrs(p)
	if code != "" {
		if !gone(code) {
			c.fail(string(p), code)
		}
		return
	}
	for _, x := range list {
		if string(x.name) == "security.capability" {
			c.add(string(p), fmt.Sprintf("capabilities %x", x.value))
		}
	}
}

// passwd calls each for every line of a passwd file, cut into its seven fields; nil for a line that isn't one.
func (c *checker) passwd(path string, each func(line []byte, f []string)) rats.Code {
	return c.lines(path, func(line []byte) bool {
		if len(bytes.TrimSpace(line)) == 0 || line[0] == '#' {
			return true
		}
		f := strings.Split(string(line), ":")
		if len(f) != 7 {
			f = nil
		}
		each(line, f)
		return true
	})
}

// uid0Users yields "user NAME" for every account with uid 0 in the files (default /etc/passwd), and "line HASH" for lines that
// are no accounts, such as those that pull accounts in from elsewhere. Values: group, home and shell.
func (c *checker) uid0Users() {
	files := c.paths()
	if len(files) == 0 {
		files = [][]byte{[]byte("/etc/passwd")}
	}
	for _, file := range files {
		code := c.passwd(string(file), func(line []byte, f []string) {
			switch {
			case f == nil || strings.HasPrefix(f[0], "+") || strings.HasPrefix(f[0], "-"):
				c.add(fmt.Sprintf("line %x", sha256.Sum256(line)), "not an account")
			case zero(f[2]):
				c.add("user "+f[0], fmt.Sprintf("group %s home %s shell %s", f[3], f[5], f[6]))
			}
		})
		if code != "" {
			c.fail(string(file), code)
		}
	}
}

// zero says whether a C library would read a number as 0: also "00", " 0" and "", and what overflows is taken for it.
func zero(s string) bool {
	s = strings.TrimSpace(s)
	s = strings.TrimLeft(s, "+-")
	for _, b := range []byte(s) {
		if b != '0' {
			return b < '1' || b > '9' || len(s) > 9
		}
	}
	return true
}

// authorizedKeys yields "FILE TYPE SHA256:…" for every key in the files (default: .ssh/authorized_keys and authorized_keys2 in
// the home of every account), and "FILE line SHA256:…" for lines that are none. Values: the options that stand before the key.
func (c *checker) authorizedKeys() {
	for _, file := range c.keyFiles() {
		code := c.lines(string(file), func(line []byte) bool {
			line = bytes.TrimSpace(line)
			if len(line) == 0 || line[0] == '#' {
				return true
			}
			options, kind, key, ok := authorizedKey(string(line))
			if !ok {
				sum := sha256.Sum256(line)
				c.add(fmt.Sprintf("%s line SHA256:%s", file, base64.RawStdEncoding.EncodeToString(sum[:])), "not a key")
				return true
			}
			sum := sha256.Sum256(key)
			c.add(fmt.Sprintf("%s %s SHA256:%s", file, kind, base64.RawStdEncoding.EncodeToString(sum[:])), "options "+options)
			return true
		})
		if code != "" && !(gone(code) && len(c.args.Paths) == 0) {
			c.fail(string(file), code)
		}
	}
}

func (c *checker) keyFiles() [][]byte {
	if len(c.args.Paths) > 0 {
		return c.paths()
	}
	homes := make(map[string]bool)
	code := c.passwd("/etc/passwd", func(_ []byte, f []string) {
		if f != nil && strings.HasPrefix(f[5], "/") {
			homes[strings.TrimRight(f[5], "/")] = true
		}
	})
	if code != "" {
		c.fail("/etc/passwd", code)
	}
	var out [][]byte
	for home := range homes {
		for _, name := range []string{"authorized_keys", "authorized_keys2"} {
			if p := []byte(home + "/.ssh/" + name); !c.scope.Excluded(p) {
				out = append(out, p)
			}
		}
	}
	slices.SortFunc(out, bytes.Compare)
	return out
}

// authorizedKey reads a line of authorized_keys (sshd(8)): options, in which quotes protect blanks, type, key, comment.
func authorizedKey(line string) (options, kind string, key []byte, ok bool) {
	rest := line
	for range 2 {
		word, tail := cutWord(rest)
		body, _ := cutWord(tail)
		if keyType(word) {
			b, err := base64.StdEncoding.DecodeString(body)
			return options, word, b, err == nil && len(b) > 0
		}
		options, rest = word, tail
	}
	return "", "", nil, false
}

func keyType(s string) bool {
	for _, prefix := range []string{"ssh-", "ecdsa-", "sk-", "rsa-", "webauthn-"} {
		if strings.HasPrefix(s, prefix) && !strings.ContainsAny(s, `="`) {
			return true
		}
	}
	return false
}

func cutWord(s string) (word, rest string) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && s[i+1] == '"':
			i++
		case s[i] == '"':
			quoted = !quoted
		case !quoted && (s[i] == ' ' || s[i] == '\t'):
			return s[:i], strings.TrimLeft(s[i:], " \t")
		}
	}
	return s, ""
}

// unitDirs is where systemd looks for units of the system, and of all users' managers.
var unitDirs = []string{
	"/etc/systemd/system", "/etc/systemd/system.control", "/etc/systemd/system.attached", "/etc/systemd/user",
	"/run/systemd/system", "/run/systemd/system.control", "/run/systemd/transient", "/run/systemd/user",
	"/run/systemd/generator", "/run/systemd/generator.early", "/run/systemd/generator.late",
	"/usr/local/lib/systemd/system", "/usr/local/lib/systemd/user", "/usr/lib/systemd/system", "/usr/lib/systemd/user",
	"/etc/systemd/system-generators", "/run/systemd/system-generators", "/usr/local/lib/systemd/system-generators",
	"/usr/lib/systemd/system-generators",
}

// systemdUnits yields every file below the paths (default: where systemd looks), units, drop-ins and generators alike, with the
// digest of its content, and every link with its target: an enabled unit, an alias, or one that is masked.
func (c *checker) systemdUnits() {
	for _, dir := range c.paths(unitDirs...) {
		c.walk(dir, func(p []byte, kind uint8) {
			switch kind {
			case EntryFile:
				c.content(string(p), p)
			case EntrySymlink:
				target, code := c.link(string(p))
				if code != "" {
					c.fail(string(p), code)
					return
				}
				c.add(string(p), "link to "+target)
			case EntryOther:
				c.add(string(p), "neither file nor link")
			}
		})
	}
}
