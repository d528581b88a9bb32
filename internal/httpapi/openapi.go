package httpapi

import (
	"encoding"
	"encoding/json"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/assay-attest/assay/api"
)

// OpenAPI returns the OpenAPI 3.1 description of the routes, derived from their table and the structs of package api.
// docs/reference/openapi.json is this text; a test says when it is stale.
func OpenAPI() ([]byte, error) {
	g := &describer{schemas: map[string]any{}}
	paths := map[string]map[string]any{}
	for _, r := range Routes() {
		path := strings.ReplaceAll(strings.ReplaceAll(r.Pattern, "...}", "}"), "{ns}", "{namespace}")
		if paths[path] == nil {
			paths[path] = map[string]any{}
		}
		paths[path][strings.ToLower(r.Method)] = g.operation(r, path)
	}
	g.ref(reflect.TypeFor[api.Problem]())
	doc := map[string]any{
		"openapi": "3.1.0",
		"info": map[string]any{
			"title": "Assay", "version": "1",
			"description": "Remote attestation: evidence in, verdicts and secrets out. Errors are problem documents (RFC 9457) with a stable code.",
		},
		"paths": paths,
		"components": map[string]any{
			"schemas": g.schemas,
			"securitySchemes": map[string]any{
				"token": map[string]any{"type": "http", "scheme": "bearer"},
				"node":  map[string]any{"type": "mutualTLS"},
			},
		},
	}
	b, err := json.MarshalIndent(doc, "", "  ")
	return append(b, '\n'), err
}

var pathParam = regexp.MustCompile(`\{([a-z]+)\}`)

type describer struct{ schemas map[string]any }

func (g *describer) operation(r Route, path string) map[string]any {
	answer := map[string]any{"description": "done"}
	switch {
	case r.Out != nil:
		answer["content"] = map[string]any{"application/json": map[string]any{"schema": g.ref(reflect.TypeOf(r.Out))}}
	case r.Time == 0:
		answer["content"] = map[string]any{api.TypeEventStream: map[string]any{"schema": map[string]any{"type": "string"}}}
	}
	op := map[string]any{
		"summary": r.Summary, "operationId": r.Verb + "." + strings.ToLower(r.Method) + "." + strconv.Itoa(len(path)), "x-verb": r.Verb,
		"responses": map[string]any{"200": answer, "default": map[string]any{
			"description": "refused",
			"content":     map[string]any{api.TypeProblem: map[string]any{"schema": g.ref(reflect.TypeFor[api.Problem]())}},
		}},
	}
	var params []any
	for _, m := range pathParam.FindAllStringSubmatch(path, -1) {
		params = append(params, map[string]any{"name": m[1], "in": "path", "required": true, "schema": map[string]any{"type": "string"}})
	}
	if params != nil {
		op["parameters"] = params
	}
	switch {
	case r.In != nil:
		op["requestBody"] = body("application/json", g.ref(reflect.TypeOf(r.In)))
	case r.Media != "":
		op["requestBody"] = body(r.Media, map[string]any{"type": "string"})
	}
	var security []any
	if slices.Contains(r.Who, Anonymous) {
		security = append(security, map[string]any{})
	}
	if slices.Contains(r.Who, NodeAgent) {
		security = append(security, map[string]any{"node": []string{}})
	}
	if slices.Contains(r.Who, Admin) {
		security = append(security, map[string]any{"token": []string{}})
	}
	op["security"] = security
	return op
}

func body(media string, schema any) map[string]any {
	return map[string]any{"required": true, "content": map[string]any{media: map[string]any{"schema": schema}}}
}

var textType = reflect.TypeFor[encoding.TextMarshaler]()

// ref returns the schema of a type; named structs become components.
func (g *describer) ref(t reflect.Type) map[string]any {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return map[string]any{"type": "string", "format": "date-time"}
	case t.Kind() == reflect.Pointer:
		return g.ref(t.Elem())
	case t.Implements(textType):
		return map[string]any{"type": "string"}
	}
	switch t.Kind() {
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return map[string]any{"type": "integer"}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return map[string]any{"type": "string", "contentEncoding": "base64"}
		}
		return map[string]any{"type": "array", "items": g.ref(t.Elem())}
	case reflect.Array, reflect.Map:
		if t.Implements(reflect.TypeFor[json.Marshaler]()) || t.Kind() == reflect.Map {
			elem := map[string]any{}
			if t.Kind() == reflect.Map {
				elem = g.ref(t.Elem())
			}
			return map[string]any{"type": "object", "additionalProperties": elem}
		}
		return map[string]any{"type": "array", "items": g.ref(t.Elem())}
	case reflect.Struct:
		return g.object(t)
	default:
		return map[string]any{}
	}
}

func (g *describer) object(t reflect.Type) map[string]any {
	name := t.Name()
	out := map[string]any{"$ref": "#/components/schemas/" + name}
	if _, ok := g.schemas[name]; ok {
		return out
	}
	s := map[string]any{"type": "object"}
	g.schemas[name] = s
	props, required := map[string]any{}, []string{}
	g.fields(t, props, &required)
	s["properties"] = props
	if len(required) > 0 {
		s["required"] = required
	}
	return out
}

func (g *describer) fields(t reflect.Type, props map[string]any, required *[]string) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" || !f.IsExported() {
			continue
		}
		if f.Anonymous && name == "" {
			g.fields(f.Type, props, required)
			continue
		}
		if name == "" {
			name = f.Name
		}
		props[name] = g.ref(f.Type)
		if !strings.Contains(opts, "omit") {
			*required = append(*required, name)
		}
	}
}
