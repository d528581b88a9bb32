package measure

import (
	"bytes"
	"slices"

	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// confiner is a System that can judge what it opened by its real path, behind all symbolic links.
type confiner interface {
	confine(permit func(real []byte) bool) System
}

// Restrict returns a System that reads only what lies at or below one of roots and runs only the commands listed, argument
// by argument. It is the machine's own say in what an owner may measure. No roots: nothing is readable. Paths must be
// absolute and clean; roots are anchored (/usr holds /usr/x, never /usrevil). Over Local, what a path leads to behind its
// symbolic links must lie below a root too: /bin is readable only if /usr is, where one is a link to the other. Over
// another System only the path's text is judged.
func Restrict(s System, roots []string, commands [][]string) System {
	r := &restricted{}
	for _, root := range roots {
		if p := []byte(root); plan.CheckPath(p) == nil {
			r.roots = append(r.roots, p)
		}
	}
	for _, c := range commands {
		argv := make([][]byte, len(c))
		for i, a := range c {
			argv[i] = []byte(a)
		}
		if len(argv) > 0 {
			r.commands = append(r.commands, argv)
		}
	}
	if c, ok := s.(confiner); ok {
		s = c.confine(r.permits)
	}
	r.System = s
	return r
}

type restricted struct {
	System
	roots    [][]byte
	commands [][][]byte
}

func (r *restricted) permits(p []byte) bool {
	if plan.CheckPath(p) != nil {
		return false
	}
	return slices.ContainsFunc(r.roots, func(root []byte) bool { return plan.Within(p, root) })
}

func (r *restricted) Open(path []byte, flags uint32) (int32, rats.Code) {
	if !r.permits(path) {
		return -1, CodePath.Code
	}
	return r.System.Open(path, flags)
}

func (r *restricted) Stat(path []byte, follow bool) (Stat, rats.Code) {
	if !r.permits(path) {
		return Stat{}, CodePath.Code
	}
	return r.System.Stat(path, follow)
}

func (r *restricted) Exec(argv [][]byte, l plan.Limits) (int32, rats.Code) {
	env, command := cutEnvironment(argv)
	for _, e := range env {
		if name, _, _ := bytes.Cut(e, []byte("=")); !slices.Contains(plan.Environment, string(name)) {
			return -1, CodeExec.Code
		}
	}
	for _, c := range r.commands {
		if slices.EqualFunc(c, command, bytes.Equal) {
			return r.System.Exec(argv, l)
		}
	}
	return -1, CodeExec.Code
}

// cutEnvironment splits NAME=value elements from the command that follows them. The program is an absolute path, so it is
// never taken for one.
func cutEnvironment(argv [][]byte) (env, command [][]byte) {
	for i, a := range argv {
		if len(a) > 0 && a[0] == '/' || bytes.IndexByte(a, '=') <= 0 {
			return argv[:i], argv[i:]
		}
	}
	return argv, nil
}
