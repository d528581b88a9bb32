package measure

import "github.com/assay-attest/assay/rats"

// describer is a System that describes what it has open. That saves two questions by path per file, and leaves no doubt
// that what is described is what was read.
type describer interface {
	OpenDescribed(path []byte, flags uint32) (int32, Stat, rats.Code)
	Describe(fd int32) (Stat, rats.Code)
}

// describerOf returns a System's describer, nil if it isn't one.
func describerOf(s System) describer {
	if r, ok := s.(*restricted); ok {
		if d, ok := r.System.(describer); ok {
			return restrictedDescriber{r, d}
		}
		return nil
	}
	d, _ := s.(describer)
	return d
}

// restrictedDescriber describes what may be read.
type restrictedDescriber struct {
	r *restricted
	describer
}

// OpenDescribed implements describer.
func (d restrictedDescriber) OpenDescribed(path []byte, flags uint32) (int32, Stat, rats.Code) {
	if !d.r.permits(path) {
		return -1, Stat{}, CodePath.Code
	}
	return d.describer.OpenDescribed(path, flags)
}

// opened is a regular file that is open, and what it was then.
type opened struct {
	fd   int32
	path []byte
	stat Stat
}

// open opens a regular file. Its size is not below zero.
func (r *run) open(path []byte, flags uint32) (opened, rats.Code) {
	f := opened{path: path}
	var code rats.Code
	if r.describer == nil {
		if f.stat, code = r.system.Stat(path, false); code == "" {
			code = f.regular()
		}
		if code != "" {
			return f, code
		}
	}
	if r.describer == nil {
		f.fd, code = r.system.Open(path, OpenFile|flags)
		return f, code
	}
	if f.fd, f.stat, code = r.describer.OpenDescribed(path, OpenFile|flags); code != "" {
		return f, code
	}
	if code = f.regular(); code != "" {
		r.system.Close(f.fd)
	}
	return f, code
}

func (f opened) regular() rats.Code {
	switch {
	case f.stat.Mode&ModeType == ModeSymlink:
		return CodeSymlink.Code
	case f.stat.Mode&ModeType != ModeRegular:
		return CodeIrregular.Code
	case f.stat.Size < 0:
		return CodeSystem.Code
	default:
		return ""
	}
}

// same says whether a file is what it was when it was opened. By path that means that it is still there; by what is open it
// means that nobody wrote to it, renamed or removed it.
func (r *run) same(f opened) rats.Code {
	var after Stat
	var code rats.Code
	if r.describer != nil {
		after, code = r.describer.Describe(f.fd)
	} else {
		after, code = r.system.Stat(f.path, false)
	}
	if code == "" && after != f.stat {
		code = CodeChanged.Code
	}
	return code
}
