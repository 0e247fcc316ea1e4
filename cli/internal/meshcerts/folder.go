package meshcerts

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"weir.dev/kit/atomicfile"
	"weir.dev/kit/certs"
)

// maxFile bounds one file that is read.
const maxFile = 1 << 20

// Folder keeps each bundle in a folder of its name, files of private keys for
// their owner alone. Lock it for as long as it is used.
type Folder struct{ dir string }

// OpenFolder makes the folder, if need be, and holds it until close.
func OpenFolder(dir string) (folder *Folder, unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, err
	}
	file, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("%s is in use by another weir certs", dir), file.Close())
	}
	return &Folder{dir: dir}, func() { _ = file.Close() }, nil
}

// Read implements Store.
func (f *Folder) Read(_ context.Context, name string) (certs.Bundle, string, error) {
	entries, err := os.ReadDir(filepath.Join(f.dir, name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	bundle := certs.Bundle{}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), ".") || !entry.Type().IsRegular() {
			continue
		}
		if info, err := entry.Info(); err != nil || info.Size() > maxFile {
			return nil, "", errors.Join(fmt.Errorf("%s is not a file of at most %d bytes", filepath.Join(f.dir, name, entry.Name()), maxFile), err)
		}
		if bundle[entry.Name()], err = os.ReadFile(filepath.Join(f.dir, name, entry.Name())); err != nil {
			return nil, "", err
		}
	}
	if len(bundle) == 0 {
		return nil, "", nil
	}
	return bundle, versionOf(bundle), nil
}

func versionOf(bundle certs.Bundle) string {
	hash := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(bundle)) {
		fmt.Fprintf(hash, "%q %q\n", name, bundle[name])
	}
	return hex.EncodeToString(hash.Sum(nil))
}

// Write implements Store. The files are replaced one by one, keys first; who reads
// them checks that they belong together.
func (f *Folder) Write(ctx context.Context, name, version string, bundle certs.Bundle) error {
	held, current, err := f.Read(ctx, name)
	if err != nil {
		return err
	}
	if current != version {
		return fmt.Errorf("%s: %w", filepath.Join(f.dir, name), ErrChanged)
	}
	dir := filepath.Join(f.dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	names := slices.SortedFunc(maps.Keys(bundle), func(a, b string) int {
		return strings.Compare(filepath.Ext(b)+b, filepath.Ext(a)+a) // .key before .crt
	})
	for _, file := range names {
		mode := os.FileMode(0o644)
		if filepath.Ext(file) == ".key" {
			mode = 0o600
		}
		if err := atomicfile.Write(filepath.Join(dir, file), bundle[file], mode); err != nil {
			return err
		}
	}
	for file := range held {
		if _, stays := bundle[file]; !stays {
			if err := os.Remove(filepath.Join(dir, file)); err != nil {
				return err
			}
		}
	}
	return nil
}
