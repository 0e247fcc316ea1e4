package ersettings

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Mogrifier is one of DOG_STATSD_MOGRIFIER_*.
type Mogrifier struct {
	Pattern *regexp.Regexp
	Name    string
	// Tags are names and values, in order.
	Tags [][2]string
}

// mogrifiers reads the variables of those that are listed.
func mogrifiers(list string, lookup func(string) (string, bool)) (all []Mogrifier, err error) {
	var errs []error
	for name := range strings.SplitSeq(list, ",") {
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		prefix := "DOG_STATSD_MOGRIFIER_" + name
		value := func(of string) string {
			text, _ := lookup(prefix + of)
			return text
		}
		one := Mogrifier{Name: value("_NAME")}
		if one.Name == "" || value("_PATTERN") == "" {
			errs = append(errs, fmt.Errorf("%s_PATTERN, %s_NAME: are required by USE_DOG_STATSD_MOGRIFIERS", prefix, prefix))
			continue
		}
		if one.Pattern, err = regexp.Compile(value("_PATTERN")); err != nil {
			errs = append(errs, fmt.Errorf("%s_PATTERN: %w", prefix, err))
		}
		for pair := range strings.SplitSeq(value("_TAGS"), ",") {
			tag, text, _ := strings.Cut(pair, ":")
			switch {
			case strings.TrimSpace(pair) == "":
			case tag == "" || text == "":
				errs = append(errs, fmt.Errorf("%s_TAGS: must be NAME:VALUE, with commas between", prefix))
			default:
				one.Tags = append(one.Tags, [2]string{strings.TrimSpace(tag), text})
			}
		}
		all = append(all, one)
	}
	return all, errors.Join(errs...)
}

var srvName = regexp.MustCompile(`^_([^.]+)\._([^.]+)\.(.+)$`)

// SRV takes the name of an SRV record (RFC 2782) apart.
func SRV(name string) (service, protocol, domain string, ok bool) {
	found := srvName.FindStringSubmatch(name)
	if found == nil {
		return "", "", "", false
	}
	return found[1], found[2], found[3], true
}
