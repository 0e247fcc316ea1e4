package policy

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/util/validation"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weir.dev/kit/authzexpr"
	"weir.dev/kit/limitexpr"
	"weir.dev/policy/v1alpha1"
)

// Bounds of what Parse takes.
const (
	MaxFileBytes        = 8 << 20
	MaxDocumentsPerFile = 10_000
	maxDepth            = 64
	maxAliases          = 100
)

// Document is the outcome of one YAML document of a file.
type Document struct {
	// Object is set when the document is free of errors.
	Object *Object
	// Ref names the object as far as it could be read, also of a broken one.
	Ref      ObjectRef
	Problems Problems
	// Closing is set on a broken document that is, or may be, an AuthPolicy, a
	// TLSPolicy for client certificates or a BackendTLSPolicy: what it protects is
	// then refused instead of left open.
	Closing *Closing
}

// Parser parses documents. Safe for concurrent use.
type Parser struct {
	expressions *authzexpr.Environment
	limits      *limitexpr.Environment
	kinds       map[[2]string]func() metav1.Object
}

// NewParser makes a parser; it fails only when the expression environment
// cannot be built, which no input can cause.
func NewParser() (*Parser, error) {
	environment, err := authzexpr.NewEnvironment()
	if err != nil {
		return nil, err
	}
	limits, err := limitexpr.NewEnvironment()
	if err != nil {
		return nil, err
	}
	return &Parser{expressions: environment, limits: limits, kinds: kinds()}, nil
}

// Parse reads every document of a YAML (or JSON) file. Documents are
// independent: a broken one is reported and the others are returned. Validation
// of single objects is included; references are not looked at.
func (p *Parser) Parse(file string, content []byte) []Document {
	if len(content) > MaxFileBytes {
		return []Document{broken(file, 0, CodeTooLarge, fmt.Sprintf("the file has %d bytes; the most is %d", len(content), MaxFileBytes), content)}
	}
	chunks := splitDocuments(content)
	if len(chunks) > MaxDocumentsPerFile {
		return []Document{broken(file, 0, CodeTooLarge, fmt.Sprintf("the file has %d documents; the most is %d", len(chunks), MaxDocumentsPerFile), content)}
	}
	var documents []Document
	for _, chunk := range chunks {
		documents = append(documents, p.parseDocument(file, chunk)...)
		if len(documents) > MaxDocumentsPerFile {
			return []Document{broken(file, 0, CodeTooLarge, fmt.Sprintf("the file has more than %d objects", MaxDocumentsPerFile), content)}
		}
	}
	return documents
}

type chunk struct {
	text []byte
	// lines before the chunk in its file
	offset int
}

var separator = regexp.MustCompile(`(?m)^---(?:[ \t].*)?\r?$`)

// splitDocuments cuts at "---" lines, so that a syntax error in one document
// cannot swallow the next. A block scalar cannot hold such a line: at column 0
// it ends the document in YAML too (YAML 1.2.2 section 9.1.2).
func splitDocuments(content []byte) []chunk {
	content = bytes.TrimPrefix(content, []byte("\xef\xbb\xbf"))
	var chunks []chunk
	start, offset := 0, 0
	for _, at := range append(separator.FindAllIndex(content, -1), []int{len(content), len(content)}) {
		text := content[start:at[0]]
		chunks = append(chunks, chunk{text: text, offset: offset})
		offset += bytes.Count(content[start:at[1]], []byte("\n"))
		start = at[1]
	}
	return chunks
}

// tlsPolicyWord finds the kind, and not BackendTLSPolicy. A TLSPolicy that does
// not mention clientCertificates keeps nobody out.
var tlsPolicyWord = regexp.MustCompile(`\bTLSPolicy\b`)

const clientCertificates = "clientCertificates"

func broken(file string, line int, code Code, message string, text []byte) Document {
	origin := Origin{File: file, Line: line}
	document := Document{Problems: Problems{{Origin: origin, Code: code, Severity: SeverityError, Message: message}}}
	switch {
	case bytes.Contains(text, []byte(v1alpha1.KindAuthPolicy)):
		document.Closing = &Closing{Origin: origin, Overrides: bytes.Contains(text, []byte("overrides"))}
	case tlsPolicyWord.Match(text) && bytes.Contains(text, []byte(clientCertificates)):
		document.Closing = &Closing{Origin: origin, Policy: v1alpha1.KindTLSPolicy}
	case bytes.Contains(text, []byte(kindBackendTLSPolicy)):
		document.Closing = &Closing{Origin: origin, Policy: kindBackendTLSPolicy}
	}
	return document
}

// parseDocument reads one document: none where there is nothing in it, and several
// where it is a List, as kubectl writes what it gets.
func (p *Parser) parseDocument(file string, part chunk) []Document {
	var root yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(part.text))
	if err := decoder.Decode(&root); err != nil {
		if errors.Is(err, io.EOF) {
			return nil
		}
		line, message := yamlError(err, part.text)
		return []Document{broken(file, line+part.offset, CodeYAML, message, part.text)}
	}
	if len(root.Content) != 1 || (root.Content[0].Kind == yaml.ScalarNode && root.Content[0].Tag == "!!null") {
		return nil
	}
	node := root.Content[0]
	if node.Kind != yaml.MappingNode {
		return []Document{broken(file, node.Line+part.offset, CodeDecode, notMapping, part.text)}
	}
	shift(node, part.offset, map[*yaml.Node]bool{})
	value, err := toJSON(node, &budget{})
	if err != nil {
		return []Document{broken(file, node.Line, CodeYAML, err.Error(), part.text)}
	}
	object, _ := value.(map[string]any)
	if object["kind"] == "List" && object["apiVersion"] == "v1" {
		return p.parseList(file, node, object, part.text)
	}
	return []Document{p.decodeDocument(file, node, value)}
}

const notMapping = "a resource is a mapping with apiVersion, kind and metadata"

// parseList reads the items of a List as documents of their own.
func (p *Parser) parseList(file string, node *yaml.Node, list map[string]any, text []byte) []Document {
	items, ok := list["items"].([]any)
	nodes, _ := child(node, "items")
	if !ok || nodes == nil || nodes.Kind != yaml.SequenceNode {
		return []Document{broken(file, node.Line, CodeDecode, "items of a List is a list of resources", text)}
	}
	documents := make([]Document, 0, len(items))
	for i, item := range items {
		at := nodes.Content[i]
		if at.Kind == yaml.AliasNode {
			at = at.Alias
		}
		if at.Kind != yaml.MappingNode {
			own, _ := json.Marshal(item) // of what toJSON made
			documents = append(documents, broken(file, at.Line, CodeDecode, notMapping, own))
			continue
		}
		documents = append(documents, p.decodeDocument(file, at, item))
	}
	return documents
}

var yamlLine = regexp.MustCompile(`line (\d+): `)

func yamlError(err error, text []byte) (line int, message string) {
	message = strings.TrimPrefix(err.Error(), "yaml: ")
	if found := yamlLine.FindStringSubmatchIndex(message); found != nil {
		line, _ = strconv.Atoi(message[found[2]:found[3]])
		message = message[:found[0]] + message[found[1]:]
	} else {
		line = 1
	}
	// The library counts lines from 0 in what its parser reports, from 1 in what
	// its scanner does.
	if strings.HasPrefix(message, "did not find expected") {
		line++
	}
	// Of a tab it names the line of the value that goes before it.
	if strings.HasPrefix(message, "found a tab") {
		if at := firstTab(text, line); at > 0 {
			line = at
		}
	}
	if firstTab(text, line) == line && strings.HasPrefix(message, "found ") {
		message = "a tab is in the indentation; write spaces"
	}
	return line, "not YAML: " + message
}

// firstTab is the first line, of those from one on, with a tab in its indentation,
// counted from 1; 0 for none.
func firstTab(text []byte, from int) int {
	number := 0
	for line := range bytes.Lines(text) {
		number++
		indentation := line[:len(line)-len(bytes.TrimLeft(line, " \t"))]
		if number >= from && bytes.ContainsRune(indentation, '\t') {
			return number
		}
	}
	return 0
}

// shift moves a chunk's lines to their place in the file.
func shift(node *yaml.Node, offset int, seen map[*yaml.Node]bool) {
	if node == nil || seen[node] {
		return
	}
	seen[node] = true
	node.Line += offset
	for _, sub := range node.Content {
		shift(sub, offset, seen)
	}
}

type budget struct{ aliases, depth int }

// toJSON turns a YAML tree into what encoding/json would decode to, refusing
// what JSON cannot say and what expands without bound.
func toJSON(node *yaml.Node, b *budget) (any, error) {
	if b.depth++; b.depth > maxDepth {
		return nil, fmt.Errorf("nested deeper than %d levels", maxDepth)
	}
	defer func() { b.depth-- }()
	switch node.Kind {
	case yaml.AliasNode:
		if b.aliases++; b.aliases > maxAliases {
			return nil, fmt.Errorf("more than %d aliases", maxAliases)
		}
		return toJSON(node.Alias, b)
	case yaml.SequenceNode:
		list := make([]any, 0, len(node.Content))
		for _, item := range node.Content {
			value, err := toJSON(item, b)
			if err != nil {
				return nil, err
			}
			list = append(list, value)
		}
		return list, nil
	case yaml.MappingNode:
		return mappingToJSON(node, b)
	default:
		return scalarToJSON(node)
	}
}

func mappingToJSON(node *yaml.Node, b *budget) (any, error) {
	object := make(map[string]any, len(node.Content)/2)
	for i := 0; i+1 < len(node.Content); i += 2 {
		key := node.Content[i]
		if key.Kind != yaml.ScalarNode || key.Tag == "!!merge" {
			return nil, fmt.Errorf("line %d: keys must be plain text", key.Line)
		}
		if _, twice := object[key.Value]; twice {
			return nil, fmt.Errorf("line %d: the key %q is there twice", key.Line, key.Value)
		}
		value, err := toJSON(node.Content[i+1], b)
		if err != nil {
			return nil, err
		}
		object[key.Value] = value
	}
	return object, nil
}

func scalarToJSON(node *yaml.Node) (any, error) {
	switch node.Tag {
	case "!!str", "!!binary", "!!timestamp":
		return node.Value, nil
	case "!!null":
		return nil, nil
	}
	var value any
	if err := node.Decode(&value); err != nil {
		return nil, fmt.Errorf("line %d: %w", node.Line, err)
	}
	return value, nil
}

func (p *Parser) decodeDocument(file string, node *yaml.Node, value any) Document {
	withoutServerFields(value)
	raw, err := json.Marshal(value)
	if err != nil {
		return broken(file, node.Line, CodeYAML, "cannot be written as JSON: "+err.Error(), []byte("AuthPolicy"))
	}
	var head struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
	}
	// A type error here shows again, with its place, in the full decode below.
	_ = json.Unmarshal(raw, &head)
	ref := ObjectRef{Kind: head.Kind, Namespace: head.Namespace, Name: head.Name}
	if ref.Namespace == "" {
		ref.Namespace = DefaultNamespace
	}
	object := &Object{Ref: ref, File: file, line: node.Line, lines: linesOf(node, value), raw: raw}
	document := Document{Ref: ref, Problems: p.decode(object, node, raw, head.TypeMeta, head.ObjectMeta)}
	if len(document.Problems.Errors()) == 0 {
		document.Object = object
		return document
	}
	if document.Closing = closingFor(object, raw); head.Kind == "" {
		document.Closing = closingOf(object, raw)
	}
	return document
}

// decode fills in object.Value and reports everything that is wrong.
func (p *Parser) decode(object *Object, node *yaml.Node, raw []byte, kind metav1.TypeMeta, meta metav1.ObjectMeta) Problems {
	empty, ok := p.kinds[[2]string{kind.APIVersion, kind.Kind}]
	if !ok {
		if about, reserved := reservedKinds()[kind.Kind]; reserved && kind.APIVersion == v1alpha1.APIVersion {
			return Problems{object.problem(CodeReservedKind, "kind", fmt.Sprintf("%s (%s) is not in this version of Weir: remove it, nothing would come of it", kind.Kind, about))}
		}
		return Problems{object.problem(CodeUnknownKind, "kind", unknownKind(kind, p.kinds))}
	}
	problems := checkMetadata(object, meta)
	typed, mistakes, strict := decodeValue(node, raw, empty)
	for _, mistake := range mistakes {
		problems = append(problems, object.problem(CodeDecode, mistake.field, mistake.message))
	}
	for _, err := range strict {
		field, message := strictError(err)
		if message == "unknown field" {
			message += meant(empty(), field)
		}
		problems = append(problems, object.problem(CodeUnknownField, field, message))
	}
	if typed == nil {
		return problems
	}
	typed.SetNamespace(object.Ref.Namespace)
	object.Value = typed
	found := p.validate(object)
	if len(mistakes) > 0 {
		object.Value = nil // not what is written
		found = slices.DeleteFunc(found, func(problem Problem) bool { return about(problem.Field, mistakes) })
	}
	return append(problems, found...)
}

func unknownKind(meta metav1.TypeMeta, known map[[2]string]func() metav1.Object) string {
	names := slices.SortedFunc(maps.Keys(known), func(a, b [2]string) int {
		return cmp.Or(cmp.Compare(len(a[0]), len(b[0])), slices.Compare(a[:], b[:]))
	})
	for _, name := range names {
		if name[1] == meta.Kind {
			return fmt.Sprintf("%s is not served as apiVersion %q; write %q", meta.Kind, meta.APIVersion, name[0])
		}
	}
	kindsOnly := make([]string, 0, len(names))
	for _, name := range names {
		kindsOnly = append(kindsOnly, name[1])
	}
	slices.Sort(kindsOnly)
	kindsOnly = slices.Compact(kindsOnly)
	if meta.Kind == "" {
		return "has no kind; known are " + strings.Join(kindsOnly, ", ")
	}
	if name := nearest(meta.Kind, kindsOnly); name != "" {
		return fmt.Sprintf("the kind %q is not known: did you mean %s?", meta.Kind, name)
	}
	return fmt.Sprintf("the kind %q is not known; known are %s", meta.Kind, strings.Join(kindsOnly, ", "))
}

func checkMetadata(object *Object, meta metav1.ObjectMeta) Problems {
	var problems Problems
	if meta.Name == "" {
		problems = append(problems, object.problem(CodeMetadata, "metadata.name", "is required"))
	} else if errs := validation.IsDNS1123Subdomain(meta.Name); len(errs) > 0 {
		problems = append(problems, object.problem(CodeMetadata, "metadata.name", fmt.Sprintf("%q: %s", meta.Name, errs[0])))
	}
	if meta.Namespace != "" {
		if errs := validation.IsDNS1123Label(meta.Namespace); len(errs) > 0 {
			problems = append(problems, object.problem(CodeMetadata, "metadata.namespace", fmt.Sprintf("%q: %s", meta.Namespace, errs[0])))
		}
	}
	return problems
}

var strictPattern = regexp.MustCompile(`^(unknown|duplicate) field "(.*)"$`)

func strictError(err error) (field, message string) {
	found := strictPattern.FindStringSubmatch(err.Error())
	if found == nil {
		return "", err.Error()
	}
	return found[2], found[1] + " field"
}
