package monitor

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/assay-attest/assay/enclave/sdk/boundary"
)

// maxCompiled is how many modules stay compiled in memory.
const maxCompiled = 16

// CompilerOptions are how a compiler is made. The zero value keeps compiled modules in memory only.
type CompilerOptions struct {
	Dir string       // where compiled modules are kept, as authenticated entries; "": nowhere. Not for a simulated root (S16)
	Key [32]byte     // of the entries, see CacheKey; needed with Dir
	Log *slog.Logger // of entries that are not authentic; nil: nothing
}

// Compiler turns modules into machine code and keeps it. It may be shared by monitors: code is shared, memory never. It is
// safe for concurrent use.
type Compiler struct {
	rt    wazero.Runtime
	cache wazero.CompilationCache
	kept  *kept // nil: in memory only

	mu       sync.Mutex               // one compilation at a time
	code     map[[32]byte]*privateDir // for processes
	compiled map[[32]byte]wazero.CompiledModule
	recent   [][32]byte // the most recently used last
}

// NewCompiler makes the engine and the two modules that guests import. Calls end with their context: guests check it in
// loops and at the entry of functions.
func NewCompiler(ctx context.Context, o CompilerOptions) (*Compiler, error) {
	g := &Compiler{compiled: make(map[[32]byte]wazero.CompiledModule)}
	var err error
	if o.Dir == "" {
		g.cache = wazero.NewCompilationCache()
	} else if g.kept, g.cache, err = newKept(o); err != nil {
		return nil, err
	}
	return g, g.open(ctx, true)
}

// open makes the runtime. Guests that are ended with their process need not look whether their context is done.
func (g *Compiler) open(ctx context.Context, checked bool) error {
	g.rt = wazero.NewRuntimeWithConfig(ctx, runtimeConfig(checked).WithCompilationCache(g.cache))
	for module, functions := range hostModules {
		b := g.rt.NewHostModuleBuilder(module)
		for name, f := range functions {
			b.NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(f.run), f.params, f.results).Export(name)
		}
		if _, err := b.Instantiate(ctx); err != nil {
			return fmt.Errorf("making the leaf functions: %w", err)
		}
	}
	return nil
}

func runtimeConfig(checked bool) wazero.RuntimeConfig {
	return wazero.NewRuntimeConfigCompiler().WithCloseOnContextDone(checked).WithDebugInfoEnabled(false)
}

// Close ends the compiler and everything that runs on it.
func (g *Compiler) Close(ctx context.Context) error {
	err := g.rt.Close(ctx)
	if e := g.cache.Close(ctx); err == nil {
		err = e
	}
	g.kept.close()
	for _, d := range g.code {
		d.close()
	}
	if err != nil {
		return fmt.Errorf("closing the engine: %w", err)
	}
	return nil
}

// compile returns the compiled module, from memory, from its entry or of the compiler, after a look at what it imports.
func (g *Compiler) compile(ctx context.Context, module []byte) (wazero.CompiledModule, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	sum := sha256.Sum256(module)
	if c := g.compiled[sum]; c != nil {
		g.use(sum)
		return c, nil
	}
	c, err := g.compileNew(ctx, sum, module)
	if err != nil {
		return nil, CodeModule.Bad("module", "valid code", err.Error())
	}
	for _, f := range c.ImportedFunctions() {
		from, name, _ := f.Import()
		known, ok := hostModules[from][name]
		if !ok || string(known.params) != string(f.ParamTypes()) || string(known.results) != string(f.ResultTypes()) {
			err := CodeImport.Bad("module", "functions of this monitor", fmt.Sprintf("%.64s.%.64s", from, name))
			c.Close(ctx)
			return nil, err
		}
	}
	g.compiled[sum] = c
	g.use(sum)
	if len(g.recent) > maxCompiled { // running guests keep their code
		old := g.recent[0]
		g.recent = g.recent[1:]
		g.compiled[old].Close(ctx)
		delete(g.compiled, old)
	}
	return c, nil
}

// forProcess returns a folder with a module's compiled code as the engine of a process looks for it, or nil where that
// can't be had: then the process compiles for itself. The folder has no name, and who gets the descriptor can read it.
func (g *Compiler) forProcess(ctx context.Context, module []byte) (*os.File, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	sum := sha256.Sum256(append([]byte("process\x00"), module...))
	d := g.code[sum]
	if d == nil {
		if len(g.code) >= maxCompiled {
			return nil, nil
		}
		var err error
		if d, err = newPrivateDir(); err != nil {
			return nil, nil
		}
		if err := g.compileInto(ctx, sum, module, d.path); err != nil {
			d.close()
			return nil, CodeModule.Bad("module", "valid code", err.Error())
		}
		if g.code == nil {
			g.code = make(map[[32]byte]*privateDir)
		}
		g.code[sum] = d
	}
	return d.file(), nil
}

// compileInto leaves a module's compiled code in a folder.
func (g *Compiler) compileInto(ctx context.Context, sum [32]byte, module []byte, dir string) error {
	found := g.kept.load(sum, dir)
	cache, err := wazero.NewCompilationCacheWithDir(dir)
	if err != nil {
		return err
	}
	defer cache.Close(ctx)
	rt := wazero.NewRuntimeWithConfig(ctx, runtimeConfig(false).WithCompilationCache(cache))
	defer rt.Close(ctx)
	if _, err := rt.CompileModule(ctx, module); err != nil {
		return err
	}
	if !found {
		g.kept.save(sum, dir)
	}
	return nil
}

// compileNew compiles, by way of the module's entry if entries are kept.
func (g *Compiler) compileNew(ctx context.Context, sum [32]byte, module []byte) (wazero.CompiledModule, error) {
	if g.kept == nil {
		return g.rt.CompileModule(ctx, module)
	}
	dir := g.kept.private.path
	defer func() { _ = eachFile(dir, os.Remove) }() // nothing stays where the engine looks
	found := g.kept.load(sum, dir)
	c, err := g.rt.CompileModule(ctx, module)
	if err == nil && !found {
		g.kept.save(sum, dir)
	}
	return c, err
}

func (g *Compiler) use(sum [32]byte) {
	for i, s := range g.recent {
		if s == sum {
			g.recent = append(g.recent[:i], g.recent[i+1:]...)
			break
		}
	}
	g.recent = append(g.recent, sum)
}

// start makes a guest of a module and runs its initialisation. The guest's memory is given back if that fails.
func (g *Compiler) start(ctx context.Context, module []byte, t *guest) error {
	c, err := g.compile(ctx, module)
	if err != nil {
		t.memory.Free()
		return err
	}
	in := context.WithValue(experimental.WithMemoryAllocator(ctx, t.memory), guestKey{}, t)
	mod, err := g.rt.InstantiateModule(in, c, wazero.NewModuleConfig().WithName("").WithStartFunctions()) // ours is called below
	if err != nil {
		t.memory.Free()
		return CodeModule.Bad("module", "a module that can be instantiated", err.Error())
	}
	t.mod, t.mem = mod, mod.Memory()
	if f := mod.ExportedFunction(boundary.Initialize); f != nil {
		if _, err := f.Call(context.WithValue(ctx, guestKey{}, t)); err != nil {
			t.stop()
			return t.fatal(err)
		}
	}
	return nil
}
