package state

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// markerName is a file that only a Weir state folder has; Purge refuses to
// remove a folder without it.
const markerName = "weir-state.json"

// marker is the content of the marker file.
type marker struct {
	Version int `json:"version"`
}

// version of the folder's layout.
const version = 1

// Dir is a state folder. The zero value is not usable; see Locate.
type Dir struct{ root string }

// At is the state folder at root, which need not exist yet. root is made
// absolute.
func At(root string) (Dir, error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return Dir{}, fmt.Errorf("state folder %q: %w", root, err)
	}
	return Dir{root: abs}, nil
}

// Locate finds the state folder: flag when not empty, else $WEIR_STATE_DIR,
// $XDG_STATE_HOME/weir, or ~/.local/state/weir.
func Locate(flag string, getenv func(string) string) (Dir, error) {
	switch {
	case flag != "":
		return At(flag)
	case getenv("WEIR_STATE_DIR") != "":
		return At(getenv("WEIR_STATE_DIR"))
	case filepath.IsAbs(getenv("XDG_STATE_HOME")):
		return At(filepath.Join(getenv("XDG_STATE_HOME"), "weir"))
	case getenv("HOME") != "":
		return At(filepath.Join(getenv("HOME"), ".local", "state", "weir"))
	}
	return Dir{}, errors.New("no state folder: HOME is not set; name one with --state-dir or WEIR_STATE_DIR")
}

// Root is the folder itself.
func (d Dir) Root() string { return d.root }

// Path joins names below the folder.
func (d Dir) Path(names ...string) string {
	return filepath.Join(append([]string{d.root}, names...)...)
}

// Places within the folder.
func (d Dir) Run() string         { return d.Path("run") }
func (d Dir) Logs() string        { return d.Path("logs") }
func (d Dir) Data() string        { return d.Path("data") }
func (d Dir) Certs() string       { return d.Path("certs") }
func (d Dir) Credentials() string { return d.Path("credentials") }
func (d Dir) Development() string { return d.Path("development") }
func (d Dir) ControlPlane() string {
	return d.Path("controlplane")
}

// Applied holds the objects that weir apply sent.
func (d Dir) Applied() string { return filepath.Join(d.ControlPlane(), "applied") }

// Audit holds the audit log, and AuditKeys what it is signed with.
func (d Dir) Audit() string     { return d.Path("audit") }
func (d Dir) AuditKeys() string { return d.Path("audit-keys") }

// SupervisorLog is where a detached supervisor writes.
func (d Dir) SupervisorLog() string { return filepath.Join(d.Logs(), "weir.log") }

// Prepare makes the folder and those within it, readable by the user alone. A
// folder that holds something else is refused.
func (d Dir) Prepare() error {
	if err := d.claim(); err != nil {
		return err
	}
	for _, dir := range []string{d.Run(), d.Logs(), d.Data(), d.Certs(), d.Credentials(), d.Development(), d.ControlPlane(), d.Audit(), d.AuditKeys()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("state folder: %w", err)
		}
	}
	return nil
}

func (d Dir) claim() error {
	if err := os.MkdirAll(d.root, 0o700); err != nil {
		return fmt.Errorf("state folder cannot be made (choose another with --state-dir): %w", err)
	}
	var found marker
	err := ReadJSON(d.Path(markerName), &found)
	if err == nil {
		if found.Version != version {
			return fmt.Errorf("state folder %s has layout %d and this weir knows %d: use the weir that made it, or remove it with its `weir down --purge`", d.root, found.Version, version)
		}
		return nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	entries, err := os.ReadDir(d.root)
	if err != nil {
		return fmt.Errorf("state folder: %w", err)
	}
	// Another weir may be writing the marker at this moment.
	entries = slices.DeleteFunc(entries, func(entry os.DirEntry) bool { return strings.HasPrefix(entry.Name(), "."+markerName+"-") })
	own := []string{lockName, filepath.Base(d.Certs()), filepath.Base(d.Data()), filepath.Base(d.Logs()), filepath.Base(d.Run()), filepath.Base(d.Credentials())}
	ours := 0
	for _, entry := range entries {
		if slices.Contains(own, entry.Name()) {
			ours++
		}
	}
	for _, entry := range entries {
		// A folder that holds most of what ours does lost its marker only.
		if entry.Name() != lockName && ours < len(own)-1 {
			return fmt.Errorf("state folder %s already holds other files (%s): choose an empty or new one with --state-dir", d.root, entry.Name())
		}
	}
	return WriteJSON(d.Path(markerName), marker{Version: version})
}

// IsState reports whether the folder is one that Prepare made.
func (d Dir) IsState() bool {
	var found marker
	return ReadJSON(d.Path(markerName), &found) == nil
}

// ClearRun removes what only a running Weir needs.
func (d Dir) ClearRun() error { return os.RemoveAll(d.Run()) }

// Purge removes the folder and everything in it: data, certificates and
// credentials. A folder that Prepare did not make is refused; one that does not
// exist is fine.
func (d Dir) Purge() error {
	if _, err := os.Stat(d.root); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if !d.IsState() {
		return fmt.Errorf("%s is not a Weir state folder (no %s in it): not removing it", d.root, markerName)
	}
	return os.RemoveAll(d.root)
}
