package folder

import (
	"maps"
	"slices"
	"strings"

	"weir.dev/policy"
)

// build joins the files to one update: good documents as they are, broken ones
// and those that have just left as they last were.
func (s *Source) build() Update {
	b := &builder{good: s.good, used: make(map[policy.ObjectRef]*policy.Object, len(s.good)+16)}
	b.update.Input.Objects = make([]*policy.Object, 0, len(s.good)+16)
	paths := slices.Sorted(maps.Keys(s.files))
	// What is good comes first: an object that moved to another file is not to be
	// there twice.
	for _, path := range paths {
		b.goodOf(s.files[path])
	}
	for _, path := range paths {
		b.brokenOf(path, s.files[path])
	}
	for _, path := range paths {
		leaving := s.files[path].leaving
		if len(leaving) == 0 {
			continue
		}
		b.retain(func(object *policy.Object) bool {
			_, ok := leaving[object.Ref]
			return ok && object.File == path
		})
	}
	for _, folder := range slices.Sorted(maps.Keys(s.down)) {
		b.update.Problems = append(b.update.Problems, policy.Problem{
			Origin: policy.Origin{File: folder}, Code: policy.CodeUnreadable, Severity: policy.SeverityError,
			Message: "the folder cannot be read; what it last held stays in force: " + s.down[folder].Error(),
		})
		b.retain(func(object *policy.Object) bool { return within(folder, object.File) })
	}
	s.remember(b.used)
	return b.update
}

// remember takes over the objects in use as the last good ones.
func (s *Source) remember(objects map[policy.ObjectRef]*policy.Object) {
	s.good = objects
}

type builder struct {
	good, used map[policy.ObjectRef]*policy.Object
	sorted     []policy.ObjectRef
	update     Update
}

func (b *builder) add(object *policy.Object) {
	b.update.Input.Objects = append(b.update.Input.Objects, object)
	if _, ok := b.used[object.Ref]; !ok {
		b.used[object.Ref] = object
	}
}

// retain adds the last good objects that hold and are not in use yet.
func (b *builder) retain(hold func(*policy.Object) bool) (protects bool) {
	if b.sorted == nil {
		b.sorted = slices.SortedFunc(maps.Keys(b.good), func(x, y policy.ObjectRef) int { return strings.Compare(x.String(), y.String()) })
	}
	for _, ref := range b.sorted {
		if _, ok := b.used[ref]; !ok && hold(b.good[ref]) {
			b.add(b.good[ref])
			protects = protects || ref.Kind == "AuthPolicy"
		}
	}
	return protects
}

func (b *builder) goodOf(file *file) {
	for _, document := range file.documents {
		b.update.Problems = append(b.update.Problems, document.Problems...)
		if document.Object != nil {
			b.add(document.Object)
		}
	}
	if file.problem != nil {
		b.update.Problems = append(b.update.Problems, *file.problem)
	}
}

func (b *builder) brokenOf(path string, file *file) {
	var nameless []policy.Document
	for _, document := range file.documents {
		switch {
		case document.Object != nil:
		case document.Ref.Name == "" || document.Ref.Kind == "":
			nameless = append(nameless, document)
		default:
			b.broken(document)
		}
	}
	if file.problem == nil && len(nameless) == 0 {
		return
	}
	named := map[policy.ObjectRef]bool{}
	for _, document := range file.documents {
		named[document.Ref] = true
	}
	// What a document without a readable name defined is not known: everything
	// that the file held and that is not there now stays.
	protects := b.retain(func(object *policy.Object) bool { return object.File == path && !named[object.Ref] })
	for _, document := range nameless {
		if document.Closing != nil && !protects {
			b.update.Input.Closings = append(b.update.Input.Closings, *document.Closing)
		}
	}
}

func (b *builder) broken(document policy.Document) {
	if _, ok := b.used[document.Ref]; ok {
		return
	}
	if last, ok := b.good[document.Ref]; ok {
		b.add(last)
		return
	}
	if document.Closing != nil {
		b.update.Input.Closings = append(b.update.Input.Closings, *document.Closing)
	}
}
