package images_test

import (
	"archive/tar"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/e2e/cluster/images"
	"weir.dev/e2e/internal/harness"
)

// list is what is read of an SPDX document.
type list struct {
	SPDXVersion, Name string
	Packages          []struct {
		SPDXID, Name, VersionInfo string
		ExternalRefs              []struct{ ReferenceLocator string }
	}
	Files []struct {
		SPDXID, FileName string
		Checksums        []struct{ Algorithm, ChecksumValue string }
	}
	Relationships []struct{ SPDXElementID, RelationshipType, RelatedSPDXElement string }
}

// modules are what a binary says that it is linked of, as a list has them.
func modules(t *testing.T, binary string) []string {
	t.Helper()
	info, err := buildinfo.ReadFile(binary)
	require.NoError(t, err)
	linked := []string{"pkg:golang/" + info.Main.Path + "@(devel)", "pkg:golang/stdlib@" + strings.TrimPrefix(info.GoVersion, "go")}
	for _, module := range info.Deps {
		if module.Replace != nil {
			module = module.Replace
		}
		version := module.Version
		if version == "" {
			version = "(devel)"
		}
		linked = append(linked, "pkg:golang/"+module.Path+"@"+version)
	}
	return linked
}

// missing are the modules of a binary that a list does not have, and those that only
// the list has.
func missing(linked []string, l list) (missing []string) {
	var listed []string
	for _, p := range l.Packages[1:] { // The first is the image.
		listed = append(listed, p.ExternalRefs[0].ReferenceLocator)
	}
	for _, each := range slices.Concat(linked, listed) {
		if !slices.Contains(linked, each) || !slices.Contains(listed, each) {
			missing = append(missing, each)
		}
	}
	return missing
}

// files are those of an image's one layer, with their hashes.
func files(t *testing.T, image images.Image) map[string]string {
	t.Helper()
	built, err := image.Build()
	require.NoError(t, err)
	layers, err := built.Layers()
	require.NoError(t, err)
	stream, err := layers[0].Uncompressed()
	require.NoError(t, err)
	defer stream.Close()
	found := map[string]string{}
	for reader := tar.NewReader(stream); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		require.NoError(t, err)
		if header.Typeflag != tar.TypeReg {
			continue
		}
		hash := sha256.New()
		_, err = io.Copy(hash, reader) //nolint:gosec // our own
		require.NoError(t, err)
		found["./"+header.Name] = hex.EncodeToString(hash.Sum(nil))
	}
}

// hashes are the files of a list.
func hashes(l list) map[string]string {
	found := map[string]string{}
	for _, file := range l.Files {
		for _, sum := range file.Checksums {
			if sum.Algorithm == "SHA256" {
				found[file.FileName] = sum.ChecksumValue
			}
		}
	}
	return found
}

// Each image has a list, and each list has every module that is linked.
func TestTheListsOfImagesNameEveryModule(t *testing.T) {
	bin := filepath.Dir(harness.Bin(t, "weir"))
	all, err := images.Weir(bin, "dev")
	require.NoError(t, err)
	dir := filepath.Join(t.TempDir(), "sbom")
	require.NoError(t, os.MkdirAll(dir, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "gone.spdx.json"), []byte("{}"), 0o600))
	require.NoError(t, images.WriteSBOMs(dir, bin, all, time.Unix(1_700_000_000, 0)))
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, len(all), "one of each, and no other")
	for i, binary := range images.Binaries() {
		t.Run(binary, func(t *testing.T) {
			raw, err := os.ReadFile(filepath.Join(dir, binary+".spdx.json"))
			require.NoError(t, err)
			var l list
			require.NoError(t, json.Unmarshal(raw, &l))
			require.Equal(t, "SPDX-2.3", l.SPDXVersion)
			require.Equal(t, all[i].Name, l.Name)
			ids := map[string]bool{"SPDXRef-DOCUMENT": true}
			for _, p := range l.Packages {
				require.False(t, ids[p.SPDXID], "%s is there twice", p.SPDXID)
				require.Regexp(t, regexp.MustCompile(`^SPDXRef-[A-Za-z0-9.-]+$`), p.SPDXID)
				ids[p.SPDXID] = true
			}
			for _, file := range l.Files {
				require.False(t, ids[file.SPDXID], "%s is there twice", file.SPDXID)
				ids[file.SPDXID] = true
			}
			if i == 0 { // Reading one image is enough, and takes its time.
				require.Equal(t, files(t, all[i]), hashes(l), "every file of the image")
			}
			for _, relation := range l.Relationships {
				require.True(t, ids[relation.SPDXElementID] && ids[relation.RelatedSPDXElement], "%v leads nowhere", relation)
			}
			linked := modules(t, filepath.Join(bin, binary))
			require.Greater(t, len(linked), 10)
			require.Empty(t, missing(linked, l))

			// Whatever is left out is found.
			l.Packages = slices.Delete(l.Packages, 4, 5)
			require.Len(t, missing(linked, l), 1)
		})
	}
	_, err = images.SBOM(images.Image{Name: "x"}, "/bin/sh", time.Now())
	require.Error(t, err, "no Go binary")
}

// What make builds and what has an image are the same.
func TestEveryBinaryHasAnImage(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(harness.Root(t), "Makefile"))
	require.NoError(t, err)
	found := regexp.MustCompile(`(?m)^BINARIES := (.*)$`).FindSubmatch(raw)
	require.NotNil(t, found)
	var built []string
	for path := range strings.FieldsSeq(string(found[1])) {
		built = append(built, filepath.Base(path))
	}
	require.ElementsMatch(t, built, images.Binaries())
}
