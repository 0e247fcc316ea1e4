package state

import (
	"time"

	"weir.dev/cli/process"
)

// Record is what a supervisor writes down about itself and its children, for
// other commands and for cleaning up after a crash.
type Record struct {
	Supervisor process.ID `json:"supervisor"`
	// PolicyDir is the folder being served.
	PolicyDir string    `json:"policyDir"`
	Started   time.Time `json:"started"`
	// Ready is whether everything was once ready in this run.
	Ready bool `json:"ready"`
	// IngressHTTP is the base URL of the ingress: https only where no listener is
	// without TLS.
	IngressHTTP string `json:"ingressHTTP"`
	// IngressHTTPS are the base URLs of all ports with TLS.
	IngressHTTPS []string `json:"ingressHTTPS,omitempty"`
	// Notes are what the user should know about this run, such as a shifted
	// port.
	Notes      []string    `json:"notes,omitempty"`
	Components []Component `json:"components"`
}

// Component is one child in a Record.
type Component struct {
	Name    string `json:"name"`
	State   string `json:"state"`
	Address string `json:"address"`
	// Probe is the URL that answers 200 while the component is ready.
	Probe    string     `json:"probe,omitempty"`
	Process  process.ID `json:"process"`
	Restarts int        `json:"restarts"`
	Error    string     `json:"error,omitempty"`
}

func (d Dir) recordPath() string { return d.Path("run", "run.json") }

// WriteRecord replaces the record.
func (d Dir) WriteRecord(record Record) error { return WriteJSON(d.recordPath(), record) }

// ReadRecord returns the record; os.ErrNotExist when nothing is or was running.
func (d Dir) ReadRecord() (Record, error) {
	var record Record
	err := ReadJSON(d.recordPath(), &record)
	return record, err
}

// Ports remembers which port each use had last, so that addresses stay the
// same from run to run.
type Ports map[string]int

func (d Dir) portsPath() string { return d.Path("ports.json") }

// ReadPorts returns what was remembered; an absent or damaged file is empty,
// since ports are a preference only.
func (d Dir) ReadPorts() Ports {
	ports := Ports{}
	if err := ReadJSON(d.portsPath(), &ports); err != nil {
		return Ports{}
	}
	return ports
}

// WritePorts remembers ports.
func (d Dir) WritePorts(ports Ports) error { return WriteJSON(d.portsPath(), ports) }
