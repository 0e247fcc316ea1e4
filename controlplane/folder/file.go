package folder

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"weir.dev/policy"
)

// freshFor is how long after its last change a file may change again without a
// new modification time: clocks of file systems are that coarse.
const freshFor = 100 * time.Millisecond

// file is what is known of one file.
type file struct {
	info      fs.FileInfo
	sum       [sha256.Size]byte
	fresh     bool
	documents []policy.Document
	problem   *policy.Problem
	// leaving is when objects were first missed that the file held.
	leaving map[policy.ObjectRef]time.Time
	// lost is set when the file itself is not there any more.
	lost bool
}

// unchanged reports whether info is of the file as it was read.
func (f *file) unchanged(info fs.FileInfo) bool {
	return f != nil && f.info != nil && f.problem == nil && !f.lost &&
		f.info.Size() == info.Size() && f.info.ModTime().Equal(info.ModTime()) && os.SameFile(f.info, info)
}

// replaced reports whether a file is another one than the one that was read, and
// whole: it was written beside it and renamed, or its writer is done.
func (s *Source) replaced(path string, info fs.FileInfo) bool {
	known := s.files[path]
	return info.Size() > 0 && (known == nil || known.info == nil || !os.SameFile(known.info, info)) && closed(path)
}

// settled reports whether a file can be read: it was replaced as a whole, has not
// just changed, or keeps changing for long.
func (s *Source) settled(path string, now time.Time) bool {
	info, err := os.Stat(path)
	age := time.Duration(0)
	if err == nil {
		age = now.Sub(info.ModTime())
	}
	if err != nil || !s.emitted || age < 0 || age >= settle || s.files[path].unchanged(info) || s.replaced(path, info) {
		delete(s.unsettled, path)
		return true
	}
	if s.unsettled[path].IsZero() {
		s.unsettled[path] = now
	}
	if now.Sub(s.unsettled[path]) < settleMost {
		return false
	}
	delete(s.unsettled, path)
	return true
}

// read takes in a file if it changed, and reports whether it did.
func (s *Source) read(path string, now time.Time) bool {
	known := s.files[path]
	info, err := os.Stat(path)
	same := err == nil && known.unchanged(info)
	if same && !known.fresh {
		return false
	}
	var content []byte
	if err == nil {
		content, err = readBounded(path, info)
	}
	if err != nil {
		return s.unreadable(path, err)
	}
	next := &file{info: info, sum: sha256.Sum256(content), fresh: now.Sub(info.ModTime()) < freshFor}
	if same && known.sum == next.sum {
		known.fresh = next.fresh
		return false
	}
	next.documents = s.parser.Parse(path, content)
	next.leaving = s.missing(path, known, next.documents, now)
	s.files[path] = next
	return true
}

func (s *Source) unreadable(path string, err error) bool {
	known := s.files[path]
	if known == nil {
		known = &file{}
		s.files[path] = known
	}
	problem := policy.Problem{
		Origin: policy.Origin{File: path}, Code: policy.CodeUnreadable, Severity: policy.SeverityError,
		Message: "cannot be read: " + err.Error(),
	}
	if errors.Is(err, errTooLarge) {
		problem.Code = policy.CodeTooLarge
	}
	same := known.problem != nil && *known.problem == problem
	known.problem, known.lost = &problem, false
	return !same
}

// missing lists the objects that a file held and that documents don't, except those
// that are there under another name: both at once would be in each other's way.
func (s *Source) missing(path string, known *file, documents []policy.Document, now time.Time) map[policy.ObjectRef]time.Time {
	there := map[policy.ObjectRef]bool{}
	for _, document := range documents {
		there[document.Ref] = true
	}
	leaving := map[policy.ObjectRef]time.Time{}
	for ref, object := range s.good {
		if object.File != path || there[ref] || s.renamed(object, documents) {
			continue
		}
		leaving[ref] = now
		if known != nil && !known.leaving[ref].IsZero() {
			leaving[ref] = known.leaving[ref]
		}
	}
	return leaving
}

// renamed reports whether one of documents is an object of another name that was not
// there before, and else the same.
func (s *Source) renamed(object *policy.Object, documents []policy.Document) bool {
	var body []byte
	for _, document := range documents {
		ref := document.Ref
		if document.Object == nil || s.good[ref] != nil || ref.Kind != object.Ref.Kind || ref.Namespace != object.Ref.Namespace {
			continue
		}
		if body == nil {
			body = nameless(object)
		}
		if body != nil && bytes.Equal(body, nameless(document.Object)) {
			return true
		}
	}
	return false
}

// nameless is an object's JSON without its name, nil where there is none.
func nameless(object *policy.Object) []byte {
	var fields map[string]any
	decoder := json.NewDecoder(bytes.NewReader(object.JSON()))
	decoder.UseNumber()
	if decoder.Decode(&fields) != nil {
		return nil
	}
	if metadata, ok := fields["metadata"].(map[string]any); ok {
		delete(metadata, "name")
	}
	raw, err := json.Marshal(fields)
	if err != nil {
		return nil
	}
	return raw
}

// lose takes note that a file is not there any more.
func (s *Source) lose(path string, known *file, now time.Time) (changed bool) {
	if known.lost {
		return false
	}
	known.leaving = s.missing(path, known, nil, now)
	known.lost, known.documents, known.problem = true, nil, nil
	return true
}

// expire lets go of what has been missing for long enough.
func (f *file) expire(now time.Time) (changed bool) {
	for ref, since := range f.leaving {
		if now.Sub(since) >= grace {
			delete(f.leaving, ref)
			changed = true
		}
	}
	return changed
}

var errTooLarge = fmt.Errorf("the most is %d bytes", policy.MaxFileBytes)

func readBounded(path string, info fs.FileInfo) ([]byte, error) {
	if !info.Mode().IsRegular() {
		return nil, errors.New("is not a regular file")
	}
	if info.Size() > policy.MaxFileBytes {
		return nil, fmt.Errorf("has %d bytes; %w", info.Size(), errTooLarge)
	}
	opened, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	content, err := io.ReadAll(io.LimitReader(opened, policy.MaxFileBytes+1)) // It may have grown.
	if err == nil && len(content) > policy.MaxFileBytes {
		err = errTooLarge
	}
	return content, err
}
