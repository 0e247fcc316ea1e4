package conformance

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// Report is the part of a report that is looked at; the format is that of
// sigs.k8s.io/gateway-api/conformance/apis/v1.
type Report struct {
	Version  string    `json:"gatewayAPIVersion"`
	Channel  string    `json:"gatewayAPIChannel"`
	Date     string    `json:"date"`
	Profiles []Profile `json:"profiles"`
}

// Profile is what became of one profile's tests.
type Profile struct {
	Name     string  `json:"name"`
	Core     Result  `json:"core"`
	Extended *Result `json:"extended"`
}

// Result is that of the core or the extended tests of a profile.
type Result struct {
	Result     string `json:"result"`
	Statistics struct {
		Passed, Failed, Skipped int
	} `json:"statistics"`
	FailedTests         []string `json:"failedTests"`
	SkippedTests        []string `json:"skippedTests"`
	SupportedFeatures   []string `json:"supportedFeatures"`
	UnsupportedFeatures []string `json:"unsupportedFeatures"`
}

// Exceptions are tests that are known to fail and features that are not claimed,
// each with the reason.
type Exceptions struct {
	Tests    map[string]string `json:"tests"`
	Features map[string]string `json:"features"`
}

// ParseReport reads a report.
func ParseReport(raw []byte) (*Report, error) {
	report := &Report{}
	if err := yaml.Unmarshal(raw, report); err != nil {
		return nil, fmt.Errorf("the conformance report: %w", err)
	}
	if len(report.Profiles) == 0 {
		return nil, errors.New("the conformance report has no profiles")
	}
	slices.SortFunc(report.Profiles, func(a, b Profile) int { return strings.Compare(a.Name, b.Name) })
	return report, nil
}

// Failed are the tests that the suite's own output says failed. Reports leave out
// those that ran side by side with others: they are written before those end.
func Failed(output string) []string {
	var tests []string
	for line := range strings.Lines(output) {
		rest, ok := strings.CutPrefix(line, "    --- FAIL: TestConformance/")
		if name, _, found := strings.Cut(rest, " "); ok && found {
			tests = append(tests, name)
		}
	}
	return tests
}

// ReadExceptions reads a file of them.
func ReadExceptions(path string) (*Exceptions, error) {
	raw, err := os.ReadFile(path) //nolint:gosec // a file of the tests
	if err != nil {
		return nil, err
	}
	known := &Exceptions{}
	if err := yaml.UnmarshalStrict(raw, known); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return known, nil
}

// results are all of a report.
func (r *Report) results() []Result {
	var all []Result
	for _, profile := range r.Profiles {
		all = append(all, profile.Core)
		if profile.Extended != nil {
			all = append(all, *profile.Extended)
		}
	}
	return all
}

// Check reports tests that failed, more of which may be given, or were left out,
// and are no exceptions, exceptions that did not fail, and features that are not
// claimed without a reason, or with one although they are.
func (r *Report) Check(known *Exceptions, more ...string) error {
	failed, unclaimed := map[string]bool{}, map[string]bool{}
	for _, test := range more {
		failed[test] = true
	}
	passed := 0
	var errs []error
	for _, result := range r.results() {
		passed += result.Statistics.Passed
		for _, test := range result.FailedTests {
			failed[test] = true
		}
		for _, test := range result.SkippedTests {
			errs = append(errs, fmt.Errorf("%s was left out", test))
		}
		for _, feature := range result.UnsupportedFeatures {
			unclaimed[feature] = true
		}
	}
	if passed == 0 {
		errs = append(errs, errors.New("no test passed"))
	}
	errs = append(errs, differ("test", failed, known.Tests, "failed", "is said to fail, and did not")...)
	errs = append(errs, differ("feature", unclaimed, known.Features, "is not claimed, and no reason is given", "is said not to be served, and is claimed")...)
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(slices.CompactFunc(errs, func(a, b error) bool { return a.Error() == b.Error() })...)
}

// differ reports what is found and not known, and what is known and not found.
func differ(what string, found map[string]bool, known map[string]string, unknown, stale string) []error {
	var errs []error
	for name := range found {
		if known[name] == "" {
			errs = append(errs, fmt.Errorf("%s %s %s", what, name, unknown))
		}
	}
	for name := range known {
		if !found[name] {
			errs = append(errs, fmt.Errorf("%s %s %s", what, name, stale))
		}
	}
	return errs
}
