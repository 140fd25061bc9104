package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/go-chi/chi/v5"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// A contract is the OpenAPI document as a test reads it.
type contract struct {
	t          testing.TB
	doc        map[string]any
	compiler   *jsonschema.Compiler
	operations map[string]operation // by method and path
	reached    map[string]bool      // method, path and status
}

type operation struct {
	pointer   string         // JSON pointer to it
	responses map[string]any // by status
}

const documentURL = "packbase:openapi"

func readContract(t testing.TB, src []byte) *contract {
	t.Helper()
	var plain any
	if err := yaml.Unmarshal(src, &plain); err != nil {
		t.Fatalf("document is not YAML: %v", err)
	}
	// By way of JSON, so that numbers are what the validator knows.
	b, err := json.Marshal(plain)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	root := doc.(map[string]any)
	closeObjects(root["components"].(map[string]any)["schemas"])
	closeObjects(root["paths"])
	c := &contract{t: t, doc: root, compiler: jsonschema.NewCompiler(), operations: map[string]operation{}, reached: map[string]bool{}}
	c.compiler.DefaultDraft(jsonschema.Draft2020)
	c.compiler.AssertFormat()
	if err := c.compiler.AddResource(documentURL, doc); err != nil {
		t.Fatal(err)
	}
	for path, item := range c.doc["paths"].(map[string]any) {
		for method, op := range item.(map[string]any) {
			c.operations[strings.ToUpper(method)+" "+path] = operation{
				pointer:   "/paths/" + escapePointer(path) + "/" + method,
				responses: op.(map[string]any)["responses"].(map[string]any),
			}
		}
	}
	return c
}

// closeObjects has the schemas of objects allow no fields but those they
// list. Clients must be ready for more; the tests must not.
func closeObjects(node any) {
	switch n := node.(type) {
	case map[string]any:
		if _, ok := n["properties"].(map[string]any); ok && n["additionalProperties"] == nil {
			n["additionalProperties"] = false
		}
		for _, v := range n {
			closeObjects(v)
		}
	case []any:
		for _, v := range n {
			closeObjects(v)
		}
	}
}

// escapePointer is RFC 6901, section 3.
func escapePointer(s string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(s)
}

// pathOf returns a route's pattern as the document writes it.
func pathOf(pattern string) string { return strings.Replace(pattern, "*", "{file}", 1) }

// response follows a reference within the document.
func (c *contract) response(op operation, status string) (r map[string]any, pointer string, ok bool) {
	r, ok = op.responses[status].(map[string]any)
	pointer = op.pointer + "/responses/" + status
	if ref, is := r["$ref"].(string); is {
		name := strings.TrimPrefix(ref, "#/components/responses/")
		r, ok = c.doc["components"].(map[string]any)["responses"].(map[string]any)[name].(map[string]any)
		pointer = "/components/responses/" + name
	}
	return r, pointer, ok
}

// hold checks an answer against what the document says of its route.
func (c *contract) hold(name, method, pattern string, a *answer) {
	c.t.Helper()
	key := method + " " + pathOf(pattern)
	op, ok := c.operations[key]
	if !ok {
		c.t.Errorf("%s: %s is not in the document", name, key)
		return
	}
	status := fmt.Sprint(a.StatusCode)
	r, pointer, ok := c.response(op, status)
	if !ok {
		c.t.Errorf("%s: %s answers %s, which the document does not say: %.300s", name, key, status, a.body)
		return
	}
	c.reached[key+" "+status] = true
	for header := range mapOf(r["headers"]) {
		if header == "Location" && a.Header.Get(header) == "" {
			c.t.Errorf("%s: %s answers %s without %s", name, key, status, header)
		}
	}
	content := mapOf(r["content"])
	if len(a.body) == 0 && len(content) == 0 {
		return
	}
	kind, _, err := mime.ParseMediaType(a.Header.Get("Content-Type"))
	media, ok := content[kind].(map[string]any)
	if err != nil || !ok {
		c.t.Errorf("%s: %s answers %s with the type %q, want one of %v", name, key, status, kind, content)
		return
	}
	if media["schema"] != nil && kind == "application/json" {
		c.validate(name+": "+key+" "+status, pointer+"/content/"+escapePointer(kind)+"/schema", a.body)
	}
}

func mapOf(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}

// validate checks JSON against the schema at a pointer into the document.
func (c *contract) validate(name, pointer string, body []byte) {
	c.t.Helper()
	schema, err := c.compiler.Compile(documentURL + "#" + strings.NewReplacer("{", "%7B", "}", "%7D").Replace(pointer))
	if err != nil {
		c.t.Errorf("%s: schema: %v", name, err)
		return
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		c.t.Errorf("%s: answer is not JSON: %v\n%.300s", name, err, body)
		return
	}
	if err := schema.Validate(value); err != nil {
		c.t.Errorf("%s: %v\n%.2000s", name, err, body)
	}
}

// checkExamples holds the examples of the document to its schemas.
func (c *contract) checkExamples(node any, pointer string) {
	m, ok := node.(map[string]any)
	if !ok {
		if list, ok := node.([]any); ok {
			for i, v := range list {
				c.checkExamples(v, fmt.Sprintf("%s/%d", pointer, i))
			}
		}
		return
	}
	check := func(example any, schema string) {
		b, err := json.Marshal(example)
		if err != nil {
			c.t.Fatal(err)
		}
		c.validate("example at "+pointer, schema, b)
	}
	if _, ok := m["schema"]; ok {
		if example, ok := m["example"]; ok {
			check(example, pointer+"/schema")
		}
		for _, example := range mapOf(m["examples"]) {
			check(mapOf(example)["value"], pointer+"/schema")
		}
	}
	if list, ok := m["examples"].([]any); ok {
		for _, example := range list {
			check(example, pointer)
		}
	}
	for key, v := range m {
		if key != "example" && key != "examples" {
			c.checkExamples(v, pointer+"/"+escapePointer(key))
		}
	}
}

// routesOf returns the routes of a handler, as methods and patterns.
func routesOf(t testing.TB, h http.Handler) (routes []string) {
	t.Helper()
	err := chi.Walk(h.(chi.Routes), func(method, pattern string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		routes = append(routes, method+" "+pattern)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(routes)
	return routes
}

func TestDocumentHasEveryRoute(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	a := g.get("/api/openapi.yaml")
	if got := a.Header.Get("Content-Type"); a.StatusCode != http.StatusOK || got != "application/yaml" {
		t.Fatalf("document: status %d, type %q", a.StatusCode, got)
	}
	c := readContract(t, a.body)
	known := map[string]bool{}
	for _, route := range routesOf(t, g.server.Handler()) {
		method, pattern, _ := strings.Cut(route, " ")
		if strings.HasSuffix(pattern, "/git-receive-pack") {
			method = http.MethodPost // it takes all, and refuses all
		}
		key := method + " " + pathOf(pattern)
		known[key] = true
		if _, ok := c.operations[key]; !ok {
			t.Errorf("%s is a route, and is not in the document", key)
		}
	}
	for key := range c.operations {
		if !known[key] {
			t.Errorf("%s is in the document, and is no route", key)
		}
	}
	c.checkExamples(c.doc, "")
}
