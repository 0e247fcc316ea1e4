package resource

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/grpc/codes"

	"weir.dev/kit/fault"
	"weir.dev/kit/identity"
)

// MaxTenantBytes bounds the tenant that the edge passes.
const MaxTenantBytes = 256

// MaxDisplayName bounds a display name, in characters.
const MaxDisplayName = 200

var idPattern = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`) // immutable

// Tenant is the caller's tenant, or an error when the edge passed none.
func Tenant(ctx context.Context) (string, error) {
	caller, _ := identity.FromContext(ctx)
	switch {
	case caller.Tenant == "":
		return "", fault.New(codes.PermissionDenied, "TENANT_REQUIRED", "the caller belongs to no tenant, so there is no data for them")
	case len(caller.Tenant) > MaxTenantBytes || !utf8.ValidString(caller.Tenant) || strings.ContainsRune(caller.Tenant, 0):
		return "", fault.New(codes.PermissionDenied, "TENANT_INVALID", "the caller's tenant is not a text of at most %d bytes", MaxTenantBytes)
	}
	return caller.Tenant, nil
}

// Invalid is the error of a request with bad fields; add them by WithField.
func Invalid(format string, args ...any) *fault.Error {
	return fault.New(codes.InvalidArgument, "INVALID_ARGUMENT", format, args...)
}

// EtagMismatch is the error of a change that was made for another version.
func EtagMismatch(name string) *fault.Error {
	return fault.New(codes.Aborted, "ETAG_MISMATCH", "%s has changed since that etag; get it again", name)
}

// Contended is the error of a change that lost too many races.
func Contended(name string) *fault.Error {
	return fault.New(codes.Aborted, "CONFLICT", "%s is being changed by others; try again", name)
}

// ValidID reports whether id is a resource id (AIP-122).
func ValidID(id string) bool { return idPattern.MatchString(id) }

// ID returns id when it is good, a fresh one when it is empty, and otherwise
// an error that names field.
func ID(id, field string, now time.Time) (string, error) {
	if id == "" {
		return NewID(now), nil
	}
	if !ValidID(id) {
		return "", Invalid("%q is not an id", id).WithField(field,
			"use lower-case letters, digits and hyphens, at most 63, starting with a letter and not ending with a hyphen")
	}
	return id, nil
}

// NewID makes an id that sorts by time and can't be guessed: 48 bits of
// milliseconds, 80 random bits.
func NewID(now time.Time) string {
	var raw [16]byte
	ms := now.UnixMilli()
	for i := range 6 {
		raw[i] = byte(ms >> (40 - 8*i))
	}
	_, _ = rand.Read(raw[6:]) // never fails since Go 1.24
	return "x" + strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(raw[:]))
}

// ParseName takes the ids out of a resource name. pattern is like
// "collections/*/records/*"; field is named in the error.
func ParseName(name, pattern, field string) ([]string, error) {
	segments, wanted := strings.Split(name, "/"), strings.Split(pattern, "/")
	ids := make([]string, 0, len(wanted)/2)
	ok := len(segments) == len(wanted)
	for i := 0; ok && i < len(wanted); i++ {
		switch {
		case wanted[i] != "*":
			ok = segments[i] == wanted[i]
		case ValidID(segments[i]):
			ids = append(ids, segments[i])
		default:
			ok = false
		}
	}
	if !ok {
		return nil, Invalid("%s is not a resource name of this kind", field).WithField(field, "must have the form "+pattern)
	}
	return ids, nil
}

// NameFilter is a query.Field.Value that accepts a resource name, as ParseName
// does, and gives its last id.
func NameFilter(pattern string) func(string) (string, error) {
	return func(literal string) (string, error) {
		ids, err := ParseName(literal, pattern, "name")
		if err != nil {
			return "", fmt.Errorf("must have the form %s", pattern)
		}
		return ids[len(ids)-1], nil
	}
}

// Etag is the etag of one version of a resource.
func Etag(created time.Time, revision int64) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d/%d", created.UnixMicro(), revision))
	return base64.RawURLEncoding.EncodeToString(sum[:12])
}

// CheckEtag compares a client's etag, which may be empty for "any", with the
// current one. A quoted or weak form, as HTTP has it, is accepted.
func CheckEtag(given, current, name string) error {
	given = strings.Trim(strings.TrimPrefix(given, "W/"), `"`)
	if given != "" && given != current {
		return EtagMismatch(name)
	}
	return nil
}

// Now is the time as the stores keep it: UTC, in microseconds.
func Now(clock func() time.Time) time.Time { return clock().UTC().Truncate(time.Microsecond) }

// CheckText says what is wrong with a short text: longer than limit characters,
// control characters, or empty when it is required. Empty means fine.
func CheckText(text string, required bool, limit int) string {
	switch {
	case text == "" && required:
		return "is required"
	case !utf8.ValidString(text):
		return "is not UTF-8"
	case utf8.RuneCountInString(text) > limit:
		return fmt.Sprintf("has more than %d characters", limit)
	case strings.ContainsFunc(text, unicode.IsControl):
		return "contains control characters"
	case text != "" && strings.TrimSpace(text) == "":
		return "is blank"
	}
	return ""
}

// Mask resolves an update mask (AIP-134) against the fields that may be
// changed: "*" means all of them; no mask means those that are populated. A
// path below a known field is kept whole, for the caller to check.
func Mask(paths []string, known, populated []string) ([]string, error) {
	if len(paths) == 0 {
		return populated, nil
	}
	if len(paths) > 100 {
		return nil, Invalid("the update mask has %d paths", len(paths)).WithField("update_mask", "at most 100 paths are allowed")
	}
	for _, path := range paths {
		if path == "*" {
			if len(paths) > 1 {
				return nil, Invalid("the update mask mixes * and fields").WithField("update_mask", "* stands alone")
			}
			return known, nil
		}
		top, _, _ := strings.Cut(path, ".")
		if !slices.Contains(known, top) {
			return nil, Invalid("the update mask names a field that can't be changed").
				WithField("update_mask", fmt.Sprintf("%q is none of %s", path, strings.Join(known, ", ")))
		}
	}
	return paths, nil
}
