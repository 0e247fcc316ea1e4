package audit

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"weir.dev/kit/atomicfile"
)

// Files of a key's folder.
const (
	privateFile = "audit.key"
	publicFile  = "audit.pub"
)

// Key signs checkpoints.
type Key struct {
	signer   note.Signer
	verifier note.Verifier
	public   string
}

// Public is the key to verify with, as it stands in audit.pub.
func (k *Key) Public() string { return k.public }

// Name is the log's origin.
func (k *Key) Name() string { return k.signer.Name() }

// OpenKey reads the Ed25519 key of a folder, or makes one that is named name.
// It refuses a private key that others than its owner can read.
func OpenKey(dir, name string) (*Key, error) {
	path := filepath.Join(dir, privateFile)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeKey(dir, name)
	}
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s: may be read by others (mode %04o); chmod 600 it, and think of it as known to them", path, mode)
	}
	private, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	public, err := os.ReadFile(filepath.Join(dir, publicFile))
	if err != nil {
		return nil, err
	}
	key, err := newKey(strings.TrimSpace(string(private)), strings.TrimSpace(string(public)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if key.Name() != name {
		return nil, fmt.Errorf("%s: is the key of %q, not of %q", path, key.Name(), name)
	}
	return key, nil
}

func makeKey(dir, name string) (*Key, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	private, public, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		return nil, fmt.Errorf("key named %q: %w", name, err)
	}
	key, err := newKey(private, public)
	if err != nil {
		return nil, err
	}
	// The public half first: without the private one a key is made anew.
	for _, file := range []struct {
		name, content string
		mode          fs.FileMode
	}{{publicFile, public, 0o644}, {privateFile, private, 0o600}} {
		if err := atomicfile.Write(filepath.Join(dir, file.name), []byte(file.content+"\n"), file.mode); err != nil {
			return nil, err
		}
	}
	return key, syncDir(dir)
}

func newKey(private, public string) (*Key, error) {
	signer, err := note.NewSigner(private)
	if err != nil {
		return nil, errors.New("is not a private key of the note format")
	}
	verifier, err := note.NewVerifier(public)
	if err != nil {
		return nil, errors.New("its public key is not one of the note format")
	}
	if signer.Name() != verifier.Name() || signer.KeyHash() != verifier.KeyHash() {
		return nil, errors.New("its public key is another key's")
	}
	return &Key{signer: signer, verifier: verifier, public: public}, nil
}

// sign makes the note of a checkpoint.
func (k *Key) sign(c Checkpoint) (string, error) {
	signed, err := note.Sign(&note.Note{Text: c.text()}, k.signer)
	return string(signed), err
}

// openCheckpoint verifies a note.
func openCheckpoint(text string, verifiers note.Verifiers) (Checkpoint, error) {
	opened, err := note.Open([]byte(text), verifiers)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("signature: %w", err)
	}
	return parseCheckpoint(opened.Text)
}

// syncDir makes new names of a folder last.
func syncDir(dir string) error {
	file, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}
