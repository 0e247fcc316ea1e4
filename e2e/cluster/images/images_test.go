package images_test

import (
	"archive/tar"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/require"

	"weir.dev/e2e/cluster/images"
)

// contents are the entries of an image's one layer.
func contents(t *testing.T, image v1.Image) map[string]*tar.Header {
	t.Helper()
	layers, err := image.Layers()
	require.NoError(t, err)
	require.Len(t, layers, 1)
	stream, err := layers[0].Uncompressed()
	require.NoError(t, err)
	defer stream.Close()
	found := map[string]*tar.Header{}
	for reader := tar.NewReader(stream); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		require.NoError(t, err)
		found[header.Name] = header
	}
}

func TestAnImageHoldsWhatIsSaid(t *testing.T) {
	source := filepath.Join(t.TempDir(), "source")
	require.NoError(t, os.WriteFile(source, []byte("content"), 0o600))
	image := images.Image{Name: "docker.io/weir/test:dev", Entrypoint: []string{"/opt/bin/x"}, Files: []images.File{
		{Path: "/opt/bin/x", Source: source, Mode: 0o755},
		{Path: "/etc/passwd", Content: []byte("root")},
		{Path: "/opt/y", Link: "bin/x"},
		{Path: "/tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
	}}
	built, err := image.Build()
	require.NoError(t, err)
	found := contents(t, built)
	require.Contains(t, found, "opt/", "folders above a file are there")
	require.EqualValues(t, 0o755, found["opt/bin/x"].Mode)
	require.EqualValues(t, 7, found["opt/bin/x"].Size)
	require.EqualValues(t, 0o644, found["etc/passwd"].Mode)
	require.Equal(t, "bin/x", found["opt/y"].Linkname)
	require.EqualValues(t, 0o1777, found["tmp/"].Mode)
	config, err := built.ConfigFile()
	require.NoError(t, err)
	require.Equal(t, images.Nobody, config.Config.User, "not root unless asked for")
	require.Equal(t, []string{"/opt/bin/x"}, config.Config.Entrypoint)

	digest, err := built.Digest()
	require.NoError(t, err)
	image.Files[0], image.Files[1] = image.Files[1], image.Files[0]
	again, err := image.Build()
	require.NoError(t, err)
	same, err := again.Digest()
	require.NoError(t, err)
	require.Equal(t, digest, same, "the same files make the same image, in whatever order")
	require.NoError(t, os.WriteFile(source, []byte("changed"), 0o600))
	changed, err := image.Build()
	require.NoError(t, err)
	other, err := changed.Digest()
	require.NoError(t, err)
	require.NotEqual(t, digest, other)

	t.Run("as an archive", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "images.tar")
		require.NoError(t, images.WriteArchive(file, image))
		read, err := tarball.ImageFromPath(file, nil)
		require.NoError(t, err)
		require.Equal(t, contents(t, changed), contents(t, read))
	})
	t.Run("as a layout, which is made anew", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "layout")
		require.NoError(t, images.WriteLayout(dir, image, image))
		require.NoError(t, images.WriteLayout(dir, image))
		index, err := layout.ImageIndexFromPath(dir)
		require.NoError(t, err)
		manifest, err := index.IndexManifest()
		require.NoError(t, err)
		require.Len(t, manifest.Manifests, 1)
		require.Equal(t, other, manifest.Manifests[0].Digest)
		require.Equal(t, image.Name, manifest.Manifests[0].Annotations["org.opencontainers.image.ref.name"])
	})
	t.Run("a file that is not there", func(t *testing.T) {
		_, err := images.Image{Name: "x", Files: []images.File{{Path: "/x", Source: "/does/not/exist"}}}.Build()
		require.ErrorIs(t, err, fs.ErrNotExist)
	})
}

func TestABinaryThatNeedsLibrariesIsRefused(t *testing.T) {
	_, err := images.Static("docker.io/weir/sh:dev", "/bin/sh")
	require.ErrorContains(t, err, "build it with CGO_ENABLED=0")
	_, err = images.Static("docker.io/weir/text:dev", "/etc/passwd")
	require.Error(t, err)

	dir := t.TempDir()
	source := filepath.Join(dir, "main.go")
	require.NoError(t, os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o600))
	command := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "empty"), source)
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-buildvcs=false")
	output, err := command.CombinedOutput()
	require.NoError(t, err, string(output))
	image, err := images.Static("docker.io/weir/empty:dev", filepath.Join(dir, "empty"))
	require.NoError(t, err)
	built, err := image.Build()
	require.NoError(t, err)
	require.Contains(t, contents(t, built), "usr/local/bin/empty")
}

func TestTheLibrariesOfABinaryComeAlong(t *testing.T) {
	files, err := images.Dynamic("/bin/sh", "/usr/local/bin/shell")
	require.NoError(t, err)
	built, err := images.Image{Name: "docker.io/weir/sh:dev", Files: files}.Build()
	require.NoError(t, err)
	found := contents(t, built)
	require.Contains(t, found, "usr/local/bin/shell")
	libraries := 0
	for name := range found {
		if matched, _ := filepath.Match("lib*.so*", filepath.Base(name)); matched {
			libraries++
		}
	}
	require.Positive(t, libraries)
}
