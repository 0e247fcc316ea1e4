package erstatsd

import (
	"regexp"
	"strconv"
	"strings"
)

// Mogrifier renames metrics and makes tags of parts of their names
// (DOG_STATSD_MOGRIFIER_* of envoyproxy/ratelimit).
type Mogrifier struct {
	Pattern *regexp.Regexp
	// Name, and the values of Tags in their order, may have $0, $1, ...: what the
	// pattern's groups matched. A group that there isn't is left as it is written.
	Name string
	Tags []Tag
}

// Tag is a name and a value.
type Tag struct{ Name, Value string }

var variable = regexp.MustCompile(`\$\d+`)

// mogrify applies the first that matches.
func mogrify(all []Mogrifier, name string) (renamed string, tags []string) {
	for i := range all {
		matches := all[i].Pattern.FindStringSubmatch(name)
		if matches == nil {
			continue
		}
		expand := func(text string) string {
			return variable.ReplaceAllStringFunc(text, func(found string) string {
				if n, err := strconv.Atoi(found[1:]); err == nil && n < len(matches) {
					return matches[n]
				}
				return found
			})
		}
		for _, one := range all[i].Tags {
			tags = append(tags, tag(one.Name, expand(one.Value)))
		}
		return clean(expand(all[i].Name)), tags
	}
	return name, nil
}

// tag is a tag as DogStatsD has it: a comma would end it.
func tag(name, value string) string {
	without := strings.NewReplacer(",", "_", "#", "_")
	return without.Replace(clean(name)) + ":" + without.Replace(clean(value))
}
