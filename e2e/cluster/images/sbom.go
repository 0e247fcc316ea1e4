package images

import (
	"crypto/sha1" //nolint:gosec // SPDX asks for it
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// SBOM lists what is in the image of one binary, as an SPDX 2.3 document in JSON
// (https://spdx.github.io/spdx-spec/v2.3/): its files with their hashes, and the Go
// modules that the binary is made of. Those are read from the binary itself, so that
// it says what was linked and not what a go.mod allows.
func SBOM(image Image, binary string, created time.Time) ([]byte, error) {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", binary, err)
	}
	const whole = "SPDXRef-Image"
	document := spdxDocument{
		Version: "SPDX-2.3", License: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: image.Name,
		Namespace: "https://weir.dev/spdx/" + idOf(image.Name) + "/" + created.UTC().Format("20060102T150405Z"),
		Creation:  spdxCreation{Created: created.UTC().Format(time.RFC3339), Creators: []string{"Tool: weir-images"}},
		Relations: []spdxRelation{{From: "SPDXRef-DOCUMENT", Kind: "DESCRIBES", To: whole}},
	}
	code, err := document.addFiles(image, whole)
	if err != nil {
		return nil, err
	}
	_, tag, _ := strings.Cut(image.Name, ":")
	main := spdxPackage{
		ID: "SPDXRef-Package-" + idOf(filepath.Base(binary)), Name: info.Main.Path, Version: versionOf(&info.Main),
		Location: "NOASSERTION", References: []spdxReference{purl(info.Main.Path, versionOf(&info.Main))},
	}
	document.Packages = []spdxPackage{{
		ID: whole, Name: image.Name, Version: tag, Location: "NOASSERTION", Purpose: "CONTAINER", Analyzed: true, Code: &spdxCode{code},
		References: []spdxReference{{Category: "PACKAGE-MANAGER", Type: "purl", Locator: "pkg:oci/" + filepath.Base(binary) + "?tag=" + tag}},
	}, main}
	document.Relations = append(document.Relations, spdxRelation{From: whole, Kind: "CONTAINS", To: main.ID})
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

// addFiles adds the files of an image, of which folders and links are none, and
// returns their package verification code (SPDX 2.3, 7.9).
func (d *spdxDocument) addFiles(image Image, whole string) (code string, err error) {
	var all []string
	for _, file := range image.Files {
		if file.Mode.IsDir() || file.Link != "" {
			continue
		}
		content := file.Content
		if file.Source != "" {
			if content, err = os.ReadFile(file.Source); err != nil {
				return "", err
			}
		}
		short := sha1.Sum(content) //nolint:gosec // SPDX wants it beside a better one
		long := sha256.Sum256(content)
		all = append(all, hex.EncodeToString(short[:]))
		listed := spdxFile{
			ID: "SPDXRef-File-" + idOf(strings.TrimPrefix(file.Path, "/")), Name: "." + file.Path,
			Sums: []spdxChecksum{{"SHA1", hex.EncodeToString(short[:])}, {"SHA256", hex.EncodeToString(long[:])}},
		}
		d.Files = append(d.Files, listed)
		d.Relations = append(d.Relations, spdxRelation{From: whole, Kind: "CONTAINS", To: listed.ID})
	}
	slices.Sort(all)
	sum := sha1.Sum([]byte(strings.Join(all, ""))) //nolint:gosec // as SPDX has it
	return hex.EncodeToString(sum[:]), nil
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
		list, err := SBOM(all[i], filepath.Join(bin, binary), created)
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
	Files     []spdxFile     `json:"files"`
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
	Purpose    string          `json:"primaryPackagePurpose,omitempty"`
	Analyzed   bool            `json:"filesAnalyzed"`
	Code       *spdxCode       `json:"packageVerificationCode,omitempty"`
	References []spdxReference `json:"externalRefs"`
}

type spdxCode struct {
	Value string `json:"packageVerificationCodeValue"`
}

type spdxFile struct {
	ID   string         `json:"SPDXID"`
	Name string         `json:"fileName"`
	Sums []spdxChecksum `json:"checksums"`
}

type spdxChecksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
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
