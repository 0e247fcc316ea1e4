package images

import (
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"time"
)

// SBOM lists what Go modules a binary is made of, as an SPDX 2.3 document in JSON
// (https://spdx.github.io/spdx-spec/v2.3/). It is read from the binary itself, so
// that it says what was linked and not what a go.mod allows.
func SBOM(reference, binary string, created time.Time) ([]byte, error) {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", binary, err)
	}
	main := spdxPackage{
		ID: "SPDXRef-Package-" + idOf(filepath.Base(binary)), Name: info.Main.Path, Version: versionOf(&info.Main),
		Location: "NOASSERTION", References: []spdxReference{purl(info.Main.Path, versionOf(&info.Main))},
	}
	document := spdxDocument{
		Version: "SPDX-2.3", License: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: reference,
		Namespace: "https://weir.dev/spdx/" + idOf(reference) + "/" + created.UTC().Format("20060102T150405Z"),
		Creation:  spdxCreation{Created: created.UTC().Format(time.RFC3339), Creators: []string{"Tool: weir-images"}},
		Packages:  []spdxPackage{main},
		Relations: []spdxRelation{{From: "SPDXRef-DOCUMENT", Kind: "DESCRIBES", To: main.ID}},
	}
	add := func(path, version string) {
		p := spdxPackage{ID: "SPDXRef-Package-" + idOf(path+"-"+version), Name: path, Version: version, Location: "NOASSERTION", References: []spdxReference{purl(path, version)}}
		document.Packages = append(document.Packages, p)
		document.Relations = append(document.Relations, spdxRelation{From: main.ID, Kind: "DEPENDS_ON", To: p.ID})
	}
	add("stdlib", strings.TrimPrefix(info.GoVersion, "go"))
	for _, dependency := range info.Deps {
		if dependency.Replace != nil {
			dependency = dependency.Replace
		}
		add(dependency.Path, versionOf(dependency))
	}
	return json.MarshalIndent(document, "", "  ")
}

// WriteSBOMs writes the SBOM of each of Weir's images, made by Weir of the binaries
// in bin, to dir/BINARY.spdx.json. dir is made anew: nothing of an image that is no
// more stays.
func WriteSBOMs(dir, bin string, all []Image, created time.Time) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // public
		return err
	}
	for i, binary := range Binaries() {
		list, err := SBOM(all[i].Name, filepath.Join(bin, binary), created)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, binary+".spdx.json"), list, 0o644); err != nil { //nolint:gosec // public
			return err
		}
	}
	return nil
}

func versionOf(module *debug.Module) string {
	if module.Version == "" {
		return "(devel)"
	}
	return module.Version
}

func purl(path, version string) spdxReference {
	return spdxReference{Category: "PACKAGE-MANAGER", Type: "purl", Locator: "pkg:golang/" + path + "@" + version}
}

var notInID = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

// idOf makes text fit for an identifier of SPDX: letters, digits, dots and dashes.
func idOf(text string) string { return notInID.ReplaceAllString(text, "-") }

type spdxDocument struct {
	Version   string         `json:"spdxVersion"`
	License   string         `json:"dataLicense"`
	ID        string         `json:"SPDXID"`
	Name      string         `json:"name"`
	Namespace string         `json:"documentNamespace"`
	Creation  spdxCreation   `json:"creationInfo"`
	Packages  []spdxPackage  `json:"packages"`
	Relations []spdxRelation `json:"relationships"`
}

type spdxCreation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxPackage struct {
	ID         string          `json:"SPDXID"`
	Name       string          `json:"name"`
	Version    string          `json:"versionInfo"`
	Location   string          `json:"downloadLocation"`
	Analyzed   bool            `json:"filesAnalyzed"`
	References []spdxReference `json:"externalRefs"`
}

type spdxReference struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type spdxRelation struct {
	From string `json:"spdxElementId"`
	Kind string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}
