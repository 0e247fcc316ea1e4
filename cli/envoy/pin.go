package envoy

import (
	_ "embed"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

//go:embed envoy.pin
var embeddedPin string

// Pin is the release that is fetched.
type Pin struct {
	Package, Version, File, SHA256 string
	// Minimum is the oldest version accepted from elsewhere.
	Minimum string
	// Platform is GOOS/GOARCH that File is for.
	Platform string
	// Bytes is the size of File, for a progress bar.
	Bytes int64
}

// Pinned is the pin that this build carries.
func Pinned() (Pin, error) { return ParsePin(embeddedPin) }

// ParsePin reads key=value lines; all keys are needed and no others known.
func ParsePin(text string) (Pin, error) {
	values := map[string]string{}
	for number, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if _, double := values[key]; !ok || double {
			return Pin{}, fmt.Errorf("envoy.pin line %d: want key=value, each key once", number+1)
		}
		values[key] = value
	}
	take := func(key string) string {
		value := values[key]
		delete(values, key)
		return value
	}
	pin := Pin{
		Package: take("package"), Version: take("version"), Minimum: take("minimum"),
		Platform: take("platform"), File: take("file"), SHA256: take("sha256"),
	}
	bytes, err := strconv.ParseInt(take("bytes"), 10, 64)
	pin.Bytes = bytes
	switch {
	case len(values) > 0:
		return Pin{}, fmt.Errorf("envoy.pin: unknown keys %v", values)
	case err != nil || bytes <= 0 || pin.Package == "" || pin.File == "" || pin.Platform == "" || len(pin.SHA256) != 64:
		return Pin{}, errors.New("envoy.pin: package, version, minimum, platform, file, sha256 and bytes are all needed")
	}
	for _, version := range []string{pin.Version, pin.Minimum} {
		if _, ok := parseVersion(version); !ok {
			return Pin{}, fmt.Errorf("envoy.pin: %q is not a version", version)
		}
	}
	return pin, nil
}

type versionNumber [3]int

var versionPattern = regexp.MustCompile(`^(\d{1,6})\.(\d{1,6})\.(\d{1,6})`)

func parseVersion(text string) (versionNumber, bool) {
	match := versionPattern.FindStringSubmatch(text)
	if match == nil {
		return versionNumber{}, false
	}
	var number versionNumber
	for i := range number {
		number[i], _ = strconv.Atoi(match[i+1]) // Digits only, by the pattern.
	}
	return number, true
}

func (v versionNumber) less(other versionNumber) bool {
	for i := range v {
		if v[i] != other[i] {
			return v[i] < other[i]
		}
	}
	return false
}

// outputPattern finds the version in what envoy --version prints:
// "envoy  version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL".
var outputPattern = regexp.MustCompile(`version: [0-9a-f]+/(\d{1,6}\.\d{1,6}\.\d{1,6}[^/\s]*)/`)

// versionIn takes the version out of envoy --version's output.
func versionIn(output string) (string, bool) {
	match := outputPattern.FindStringSubmatch(output)
	if match == nil {
		return "", false
	}
	return match[1], true
}
