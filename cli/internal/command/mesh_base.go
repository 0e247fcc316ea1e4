package command

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"weir.dev/mesh/base"
	"weir.dev/mesh/istio"
)

// baseOptions are the flags of weir mesh base.
type baseOptions struct {
	base.Options
	extAuthz string
	dir      string
	replace  bool
}

func (o *baseOptions) flags(c *cobra.Command) {
	o.Options = base.DefaultOptions()
	f := c.Flags()
	f.StringVar(&o.dir, "dir", "", "`folder` to write to; made if it is not there")
	f.BoolVar(&o.replace, "replace", false, "replace files that were changed since")
	f.StringVar(&o.Profile, "profile", o.Profile, "`profile`: standard, or default-deny, in which nobody calls what is not named")
	f.StringVar(&o.MTLS, "mtls", o.MTLS, "`mode` of mutual TLS to begin with: PERMISSIVE or DISABLE; weir mesh mtls goes on to STRICT")
	f.StringVar(&o.TrustDomain, "trust-domain", o.TrustDomain, "first `part` of service identities")
	f.StringVar(&o.extAuthz, "extauthz", net.JoinHostPort(o.ExtAuthz.Host, strconv.Itoa(int(o.ExtAuthz.Port))), "`host:port` of extauthz in the mesh")
	f.DurationVar(&o.CheckTimeout, "check-timeout", o.CheckTimeout, "how long a `check` of extauthz may take, all that it asks included")
	f.IntSliceVar(&o.Ports, "ports", o.Ports, "`ports` of the ingress gateway")
	f.IntVar(&o.TrustedProxies, "trusted-proxies", o.TrustedProxies, "how many `proxies` stand before the ingress gateway")
	f.BoolVar(&o.Egress, "egress", false, "add a gateway for what goes out")
	f.StringVar(&o.Provider, "istio-provider", o.Provider, "`name` of extauthz among the mesh's extension providers")
	f.StringVar(&o.IngressNamespace, "istio-namespace", o.IngressNamespace, "`namespace` of the ingress gateway")
	f.StringVar(&o.RootNamespace, "istiod-namespace", o.RootNamespace, "`namespace` of istiod")
}

func (a *App) meshBaseCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "base", Short: "Make the mesh that a policy is applied to: values for Istio's charts, and objects",
		Long: "Write what a mesh begins with to a folder: values for Istio's charts of the control plane and the gateways (extension\n" +
			"provider, path normalization, trusted proxies), and objects (mutual TLS, access logs; with --profile default-deny a\n" +
			"mesh in which nobody calls what is not named), each with comments. They are yours from then on: files that were\n" +
			"changed are left alone, and named, unless --replace is given. Nothing is applied.\n" +
			"Exits with 1 when a file is not written.",
		Example: "  weir mesh base --dir mesh/\n  weir mesh base --dir mesh/ --profile default-deny --egress --ports 8080,8443",
		Args:    arguments(0, 0),
	}
	var o baseOptions
	o.flags(c)
	format := formatFlag(c)
	c.RunE = func(*cobra.Command, []string) error {
		if err := checkFormat(*format); err != nil {
			return err
		}
		return a.meshBase(o, *format)
	}
	return c
}

// Actions on files.
const (
	fileWritten   = "written"
	fileUnchanged = "unchanged"
	fileKept      = "kept"
)

// baseFile is what became of one.
type baseFile struct {
	Path   string `json:"path"`
	Action string `json:"action"`
}

func (a *App) meshBase(o baseOptions, format string) error {
	if o.dir == "" {
		return usageError{errors.New("name the folder to write to with --dir")}
	}
	host, text, err := net.SplitHostPort(o.extAuthz)
	port, parseErr := strconv.ParseUint(text, 10, 16)
	if err != nil || parseErr != nil || port == 0 {
		return usageError{fmt.Errorf("--extauthz %q is not host:port", o.extAuthz)}
	}
	o.ExtAuthz = istio.Service{Host: host, Port: uint32(port)}
	made, err := base.Render(o.Options)
	if err != nil {
		return usageError{err}
	}
	if err := os.MkdirAll(o.dir, 0o755); err != nil { //nolint:gosec // no secrets, and for GitOps
		return err
	}
	var done []baseFile
	kept := false
	for _, file := range made {
		path := filepath.Join(o.dir, file.Name)
		action, err := o.write(path, file.Content)
		if err != nil {
			return err
		}
		kept = kept || action == fileKept
		done = append(done, baseFile{path, action})
	}
	if err := write(a.Stdout, format, map[string]any{"files": done}, func(w io.Writer) { printBase(w, done, made) }); err != nil {
		return err
	}
	if kept {
		fmt.Fprintln(a.Stderr, "weir: what is kept is otherwise than what would be made; --replace replaces it")
		return silentError{}
	}
	return nil
}

// write makes a file, unless it is there with other content.
func (o *baseOptions) write(path string, content []byte) (action string, err error) {
	old, err := os.ReadFile(path)
	switch {
	case err == nil && bytes.Equal(old, content):
		return fileUnchanged, nil
	case err == nil && !o.replace:
		return fileKept, nil
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return "", err
	}
	return fileWritten, os.WriteFile(path, content, 0o644) //nolint:gosec // no secrets, and for GitOps
}

// printBase shows the files, and the commands of their first comments.
func printBase(w io.Writer, done []baseFile, made []base.File) {
	for _, file := range done {
		fmt.Fprintf(w, "%-9s  %s\n", file.Action, file.Path)
	}
	fmt.Fprintln(w, "\nnext, in this folder:")
	for i := range made {
		found := false
		for line := range strings.Lines(string(made[i].Content)) {
			command, ok := strings.CutPrefix(line, "#   ")
			if !ok && found {
				break
			}
			if found = ok; ok {
				fmt.Fprint(w, "  "+command)
			}
		}
	}
}
