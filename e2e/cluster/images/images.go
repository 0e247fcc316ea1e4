// Package images makes container images from files on this machine, without
// Docker and without a Dockerfile: one layer, the same bytes for the same files,
// written as an archive that container runtimes import or as an OCI layout.
package images

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Nobody is whom images run as unless they say otherwise; a number, because
// Kubernetes can't tell that a name is not root.
const Nobody = "65532:65532"

// File is one file, folder or symbolic link of an image.
type File struct {
	// Path is absolute, in the image.
	Path string
	// Source is a file on this machine; Content is used where it is empty.
	Source  string
	Content []byte
	// Link makes it a symbolic link to that path.
	Link string
	// Mode is 0644 unless given; fs.ModeDir makes it a folder.
	Mode fs.FileMode
}

// Image is what an image is made of.
type Image struct {
	// Name is its full reference, such as docker.io/weir/userd:dev.
	Name       string
	Files      []File
	Entrypoint []string
	// User is Nobody unless given.
	User   string
	Env    []string
	Labels map[string]string
}

// Build makes the image.
func (i Image) Build() (v1.Image, error) {
	content, err := archive(i.Files)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", i.Name, err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }, tarball.WithCompressionLevel(gzip.BestSpeed))
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.Architecture, file.OS = runtime.GOARCH, "linux"
	file.Config = v1.Config{
		Entrypoint: i.Entrypoint, User: cmp.Or(i.User, Nobody), Labels: i.Labels,
		Env: append([]string{"PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, i.Env...),
	}
	return mutate.ConfigFile(image, file)
}

// archive is the layer: sorted, with every folder above a file, without times and
// owners of this machine.
func archive(files []File) ([]byte, error) {
	all := map[string]File{}
	for _, f := range files {
		f.Path = path.Clean("/" + f.Path)
		all[f.Path] = f
		for dir := path.Dir(f.Path); dir != "/"; dir = path.Dir(dir) {
			if _, ok := all[dir]; !ok {
				all[dir] = File{Path: dir, Mode: fs.ModeDir | 0o755}
			}
		}
	}
	sorted := make([]File, 0, len(all))
	for _, f := range all {
		sorted = append(sorted, f)
	}
	slices.SortFunc(sorted, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	var buffer bytes.Buffer
	writer := tar.NewWriter(&buffer)
	for _, f := range sorted {
		if err := add(writer, f); err != nil {
			return nil, err
		}
	}
	return buffer.Bytes(), writer.Close()
}

func add(writer *tar.Writer, f File) error {
	header := &tar.Header{Name: strings.TrimPrefix(f.Path, "/"), Mode: int64(cmp.Or(f.Mode.Perm(), 0o644)), Format: tar.FormatPAX}
	if f.Mode&fs.ModeSticky != 0 {
		header.Mode |= 0o1000
	}
	switch {
	case f.Mode.IsDir():
		header.Typeflag, header.Name = tar.TypeDir, header.Name+"/"
	case f.Link != "":
		header.Typeflag, header.Linkname = tar.TypeSymlink, f.Link
	default:
		if f.Source != "" {
			content, err := os.ReadFile(f.Source)
			if err != nil {
				return err
			}
			f.Content = content
		}
		header.Typeflag, header.Size = tar.TypeReg, int64(len(f.Content))
	}
	if err := writer.WriteHeader(header); err != nil {
		return err
	}
	if header.Typeflag != tar.TypeReg {
		return nil
	}
	_, err := writer.Write(f.Content)
	return err
}

// WriteArchive writes the images as one archive that `docker load` and `ctr images
// import` read.
func WriteArchive(file string, images ...Image) error {
	tags := map[name.Tag]v1.Image{}
	for _, i := range images {
		tag, err := name.NewTag(i.Name)
		if err != nil {
			return err
		}
		if tags[tag], err = i.Build(); err != nil {
			return err
		}
	}
	return tarball.MultiWriteToFile(file, tags)
}

// WriteLayout writes the images as an OCI image layout into dir, which is made
// anew; the reference of each is in the annotation that tools such as skopeo look
// at.
func WriteLayout(dir string, images ...Image) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	target, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	for _, i := range images {
		image, err := i.Build()
		if err != nil {
			return err
		}
		annotations := map[string]string{"org.opencontainers.image.ref.name": i.Name, "io.containerd.image.name": i.Name}
		if err := target.AppendImage(image, layout.WithAnnotations(annotations)); err != nil {
			return err
		}
	}
	return nil
}

// Static is an image of one statically linked binary. One that is not is refused:
// the image would have nothing to load it with.
func Static(reference, binary string) (Image, error) {
	file, err := elf.Open(binary)
	if err != nil {
		return Image{}, fmt.Errorf("%s: %w", binary, err)
	}
	libraries, err := file.ImportedLibraries()
	if err := errors.Join(err, file.Close()); err != nil {
		return Image{}, err
	}
	if len(libraries) > 0 {
		return Image{}, fmt.Errorf("%s needs %s: build it with CGO_ENABLED=0", binary, strings.Join(libraries, ", "))
	}
	place := "/usr/local/bin/" + filepath.Base(binary)
	return Image{
		Name: reference, Entrypoint: []string{place},
		Files: append([]File{{Path: place, Source: binary, Mode: 0o755}, {Path: "/tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777}}, authorities()...),
	}, nil
}

// authorities are the public certificates that this machine trusts, where Go and
// Envoy look for them.
func authorities() []File {
	const file = "/etc/ssl/certs/ca-certificates.crt"
	if _, err := os.Stat(file); err != nil {
		return nil
	}
	return []File{{Path: file, Source: file}}
}

// Dynamic is the files of a binary and of the libraries that it loads, at the
// paths that they have on this machine; place is where the binary goes.
func Dynamic(binary, place string) ([]File, error) {
	files := []File{{Path: place, Source: binary, Mode: 0o755}}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	output, err := exec.CommandContext(ctx, "ldd", binary).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("ldd %s: %w: %s", binary, err, output)
	}
	for line := range strings.Lines(string(output)) {
		for field := range strings.FieldsSeq(line) {
			if !filepath.IsAbs(field) {
				continue
			}
			source, err := filepath.EvalSymlinks(field)
			if err != nil {
				return nil, err
			}
			files = append(files, File{Path: field, Source: source, Mode: 0o755})
		}
	}
	return append(files, authorities()...), nil
}
