package policy

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"

	"github.com/assay-attest/assay/rats"
)

// Bounds of conditions.
const (
	maxExpression  = 4096      // bytes
	maxNesting     = 64        // levels of an expression
	maxLoops       = 2         // all() within all()
	maxCost        = 5_000_000 // CEL cost units of one evaluation: well below a second
	presentVar     = "@present"
	claimsPrefix   = "assay.claims."
	factsPrefix    = "assay.facts."
	nodeVar        = "node"
	nowVar         = "now"
	resultVar      = "result"
	presentFormats = "present"
)

// NodeFacts is what the server knows of a node apart from its evidence.
type NodeFacts struct {
	Name   string            `json:"name"`
	Kind   string            `json:"kind"`
	Parent string            `json:"parent"`
	Labels map[string]string `json:"labels"`
}

// ClaimsOf lets NodeFacts have a schema; it is no evidence.
func (NodeFacts) ClaimsOf() rats.Format { return "" }

// resultFacts is what a release condition sees of the result it releases by.
type resultFacts struct {
	Tier   string        `json:"tier"`
	Word   string        `json:"word"`
	State  string        `json:"state"`
	Marks  []string      `json:"marks"`
	Age    time.Duration `json:"age"`
	Policy string        `json:"policy"`
}

func (resultFacts) ClaimsOf() rats.Format { return "" }

// scope says which variables an environment has.
type scope struct{ formats, now, result bool }

var (
	scopeSelector = scope{}
	scopeRule     = scope{formats: true, now: true}
	scopeRelease  = scope{formats: true, now: true, result: true}
)

// environment compiles conditions and makes the variables they are evaluated over.
type environment struct {
	cel    *cel.Env
	claims map[rats.Format]typedShape
	node   *shape
	result *shape
}

type typedShape struct {
	shape *shape
	typ   reflect.Type
}

func newEnvironment(ds []*rats.Descriptor, sc scope) (*environment, error) {
	p, err := newShapes()
	if err != nil {
		return nil, fmt.Errorf("making the CEL types: %w", err)
	}
	e := &environment{claims: make(map[rats.Format]typedShape)}
	e.node = p.add(reflect.TypeFor[NodeFacts](), rats.SchemaOf(NodeFacts{}), factsPrefix+nodeVar)
	vars := []cel.EnvOption{cel.Variable(nodeVar, e.node.typ)}
	var formats []rats.Format
	if sc.formats {
		for _, d := range ds {
			c := d.NewClaims()
			t := reflect.TypeOf(c)
			for t.Kind() == reflect.Pointer {
				t = t.Elem()
			}
			sh := p.add(t, rats.SchemaOf(c), claimsPrefix+string(d.ID))
			e.claims[d.ID] = typedShape{shape: sh, typ: t}
			formats = append(formats, d.ID)
			vars = append(vars, cel.Variable(string(d.ID), sh.typ))
		}
		vars = append(vars, cel.Variable(presentVar, cel.ListType(cel.StringType)))
	}
	if sc.now {
		vars = append(vars, cel.Variable(nowVar, cel.TimestampType))
	}
	if sc.result {
		e.result = p.add(reflect.TypeFor[resultFacts](), rats.SchemaOf(resultFacts{}), factsPrefix+resultVar)
		vars = append(vars, cel.Variable(resultVar, e.result.typ))
	}
	macros := []cel.Macro{cel.HasMacro, cel.AllMacro, cel.ExistsMacro, cel.ExistsOneMacro}
	if sc.formats {
		macros = append(macros, presentMacro(formats))
	}
	e.cel, err = cel.NewCustomEnv(append([]cel.EnvOption{
		cel.CustomTypeAdapter(p), cel.CustomTypeProvider(p),
		cel.StdLib(), cel.ClearMacros(), cel.Macros(macros...), cel.DefaultUTCTimeZone(true),
		cel.ParserExpressionSizeLimit(maxExpression), cel.ParserRecursionLimit(maxNesting),
		cel.ASTValidators(cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateRegexLiterals(),
			cel.ValidateComprehensionNestingLimit(maxLoops)),
	}, vars...)...)
	if err != nil {
		return nil, fmt.Errorf("making the CEL environment: %w", err)
	}
	return e, nil
}

// presentMacro makes present("tpm") ask whether verified evidence of a format is there. It is a macro so that a
// misspelt format doesn't compile.
func presentMacro(formats []rats.Format) cel.Macro {
	return cel.GlobalMacro(presentFormats, 1, func(f cel.MacroExprFactory, _ ast.Expr, args []ast.Expr) (ast.Expr, *cel.Error) {
		if args[0].Kind() == ast.LiteralKind {
			if s, ok := args[0].AsLiteral().(types.String); ok && slices.Contains(formats, rats.Format(s)) {
				return f.NewCall(operators.In, args[0], f.NewIdent(presentVar)), nil
			}
		}
		return nil, f.NewError(args[0].ID(), fmt.Sprintf("present() takes the name of a format: one of %q", formats))
	})
}

// fault is one error of an expression; line from 1, column from 1; both 0 if the whole is meant.
type fault struct {
	code         rats.CodeInfo
	line, column int
	text         string
}

// compile makes a program of an expression. constant says that it is a literal.
func (e *environment) compile(expr string) (p cel.Program, constant *bool, faults []fault) {
	if strings.TrimSpace(expr) == "" || len(expr) > maxExpression {
		return nil, nil, []fault{{code: CodeConditionSize, text: fmt.Sprintf("%d bytes", len(expr))}}
	}
	tree, issues := e.cel.Compile(expr)
	if issues.Err() != nil {
		for _, err := range issues.Errors() {
			faults = append(faults, fault{CodeConditionSyntax, err.Location.Line(), err.Location.Column() + 1, err.Message})
		}
		return nil, nil, faults
	}
	if !tree.OutputType().IsExactType(cel.BoolType) {
		return nil, nil, []fault{{CodeConditionType, 1, 1, tree.OutputType().String()}}
	}
	p, err := e.cel.Program(tree, cel.CostLimit(maxCost), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, nil, []fault{{CodeConditionSyntax, 1, 1, err.Error()}}
	}
	if root := tree.NativeRep().Expr(); root.Kind() == ast.LiteralKind {
		if b, ok := root.AsLiteral().(types.Bool); ok {
			v := bool(b)
			constant = &v
		}
	}
	return p, constant, nil
}

// vars makes the variables of one evaluation. A format that wasn't verified has none: naming it is an error.
func (e *environment) vars(env Env) map[string]any {
	m := map[string]any{nodeVar: objectOf(env.Node, e.node, reflect.TypeFor[NodeFacts]())}
	present := []string{}
	for _, f := range slices.Sorted(maps.Keys(e.claims)) {
		v, ok := env.Set.Verified[f]
		if !ok || v.Claims == nil {
			continue
		}
		if o := objectOf(v.Claims, e.claims[f].shape, e.claims[f].typ); o != nil {
			m[string(f)] = o
			present = append(present, string(f))
		}
	}
	m[presentVar] = present
	if !env.Now.IsZero() {
		m[nowVar] = env.Now
	}
	if r := env.Result; r != nil && e.result != nil && !env.Now.IsZero() {
		verdict := r.Verdict(env.Now)
		facts := resultFacts{
			Tier: verdict.TierName, Word: verdict.Word, State: string(verdict.State),
			Marks: r.Marks, Age: env.Now.Sub(r.At), Policy: r.Policy.Name,
		}
		m[resultVar] = objectOf(facts, e.result, reflect.TypeFor[resultFacts]())
	}
	return m
}

// holds evaluates a program. An error, and any value but a bool, is "can't be evaluated".
func holds(p cel.Program, vars map[string]any) (bool, error) {
	v, _, err := p.Eval(vars)
	if err != nil {
		return false, err
	}
	b, ok := v.(types.Bool)
	if !ok {
		return false, fmt.Errorf("value of type %s", v.Type().TypeName())
	}
	return bool(b), nil
}

// Env is what a condition is evaluated over.
type Env struct {
	Node   NodeFacts
	Set    rats.Set
	Result *rats.Result // the variable result; nil: naming it is an error
	Now    time.Time    // zero: naming now or result is an error
}

// Condition is a compiled CEL expression over claims, node, now and result: a release rule, for example. It is
// immutable and safe for concurrent use.
type Condition struct {
	text    string
	env     *environment
	program cel.Program
}

// CompileCondition type-checks an expression against the claims of formats. The paths of its reasons are positions in
// the expression. An empty expression is refused: what it would mean must be written out.
func CompileCondition(expr string, ds []*rats.Descriptor) (*Condition, []rats.Reason) {
	e, err := newEnvironment(ds, scopeRelease)
	if err != nil {
		return nil, []rats.Reason{CodeConditionSyntax.Refuse("formats", "claims that CEL can name", err.Error())}
	}
	p, _, faults := e.compile(expr)
	if len(faults) > 0 {
		var out []rats.Reason
		for _, f := range faults {
			out = append(out, f.code.Refuse(fmt.Sprintf("line %d, column %d", max(f.line, 1), max(f.column, 1)), "a CEL condition", f.text))
		}
		return nil, out
	}
	return &Condition{text: expr, env: e, program: p}, nil
}

// String returns the expression.
func (c *Condition) String() string { return c.text }

// Eval says whether the condition is met. A condition that can't be evaluated, because a format or claim it names is
// absent, is not met; the reason tells the two apart.
func (c *Condition) Eval(env Env) (bool, []rats.Reason) {
	ok, err := holds(c.program, c.env.vars(env))
	switch {
	case err != nil:
		return false, []rats.Reason{CodeConditionUnevaluable.Refuse("condition", c.text, clip(err.Error()))}
	case !ok:
		return false, []rats.Reason{CodeConditionFalse.Refuse("condition", c.text, "false")}
	}
	return true, nil
}
