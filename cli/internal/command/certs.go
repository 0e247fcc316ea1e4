package command

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	names "k8s.io/apimachinery/pkg/util/validation"

	"weir.dev/cli/internal/meshcerts"
	"weir.dev/cli/internal/stack"
	"weir.dev/kit/certs"
)

// certsTimeout bounds weir certs as a whole.
const certsTimeout = 2 * time.Minute

// defaultSecretPrefix begins the names of Secrets.
const defaultSecretPrefix = "weir"

type certsOptions struct {
	dir        string
	kubernetes bool
	secrets    meshcerts.SecretsConfig
	parts      []string
	lifetime   time.Duration
	rotate     bool
}

func (a *App) certsCommand() *cobra.Command {
	var o certsOptions
	c := &cobra.Command{
		Use: "certs (--dir DIR | --kubernetes)", Short: "Make and renew the certificates by which Weir's parts on several machines know each other",
		Long: "Make what is missing of: an authority, and for each part a certificate with its SPIFFE id; and renew what has less\n" +
			"than a third of its life left. What is good stays as it is, so this can run as often as one likes, in a job, and\n" +
			"at several places at once. Parts read changed files by themselves. (weir up has certificates of its own.)\n\n" +
			"With --kubernetes they are in Secrets: PREFIX-authority, which nobody else needs to read, and PREFIX-PART-tls with\n" +
			"tls.crt, tls.key and ca.crt. With --dir they are in DIR/authority and DIR/PART.\n\n" +
			"The authority lives five years and changes by itself in the last third, or with --rotate: for a day its successor\n" +
			"is trusted, for another day it signs and the old one is still trusted, then that is forgotten. Each step is done\n" +
			"by the first run after its time, and no step before everybody has been given the one before.",
		Example: "  weir certs --kubernetes --namespace weir-system\n  weir certs --kubernetes -n weir-system --rotate\n  weir certs --dir ./certs --part extauthz --part ingress",
		Args:    arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := o.validate(); err != nil {
				return usageError{err}
			}
			ctx, cancel := context.WithTimeout(c.Context(), certsTimeout)
			defer cancel()
			return a.ensureCerts(ctx, o)
		},
	}
	flags := c.Flags()
	flags.StringVar(&o.dir, "dir", "", "keep them in this `folder`")
	flags.BoolVar(&o.kubernetes, "kubernetes", false, "keep them in Kubernetes Secrets")
	flags.StringVar(&o.secrets.Kubeconfig, "kubeconfig", "", "with --kubernetes, the `file` that says how to reach it (default as kubectl, or the pod's service account)")
	flags.StringVar(&o.secrets.Context, "context", "", "with --kubernetes, the kubeconfig's `context` (default its current one)")
	flags.StringVarP(&o.secrets.Namespace, "namespace", "n", "", "with --kubernetes, the `namespace` of the Secrets (default the context's)")
	flags.StringVar(&o.secrets.Prefix, "secret-prefix", "", "with --kubernetes, what the Secrets' `names` begin with (default \""+defaultSecretPrefix+"\")")
	flags.StringArrayVar(&o.parts, "part", nil, "a `part` that gets a certificate; several times for several (default all of Weir's: "+strings.Join(stack.Identities(), ", ")+")")
	flags.DurationVar(&o.lifetime, "lifetime", certs.CertificateLifetime, "how long certificates are good for, "+certs.MinLifetime.String()+" to "+certs.MaxLifetime.String())
	flags.BoolVar(&o.rotate, "rotate", false, "begin to change the authority")
	return c
}

func (o *certsOptions) validate() error {
	switch {
	case o.kubernetes == (o.dir != ""):
		return errors.New("say where they are kept: --kubernetes, or --dir DIR")
	case !o.kubernetes && o.secrets != meshcerts.SecretsConfig{}:
		return errors.New("--kubeconfig, --context, --namespace and --secret-prefix go with --kubernetes")
	case o.lifetime < certs.MinLifetime || o.lifetime > certs.MaxLifetime:
		return fmt.Errorf("--lifetime %s is outside %s to %s", o.lifetime, certs.MinLifetime, certs.MaxLifetime)
	}
	if o.secrets.Prefix == "" {
		o.secrets.Prefix = defaultSecretPrefix
	}
	if len(o.parts) == 0 {
		o.parts = stack.Identities()
	}
	for _, part := range o.parts {
		if bad := names.IsDNS1123Label(part); len(bad) > 0 {
			return fmt.Errorf("--part %q: %s", part, bad[0])
		}
		if part == meshcerts.Authority {
			return fmt.Errorf("--part %q: is the authority's own name", part)
		}
		if bad := names.IsDNS1123Subdomain(meshcerts.SecretName(o.secrets.Prefix, part)); len(bad) > 0 {
			return fmt.Errorf("--secret-prefix %q: %s", o.secrets.Prefix, bad[0])
		}
	}
	return nil
}

func (a *App) ensureCerts(ctx context.Context, o certsOptions) error {
	wrote := false
	options := meshcerts.Options{Parts: o.parts, Lifetime: o.lifetime, Rotate: o.rotate, Now: time.Now}
	report := func(kind, name, why string) {
		wrote = true
		fmt.Fprintf(a.Stdout, "%s %s written: %s\n", kind, name, why)
	}
	var store meshcerts.Store
	if o.kubernetes {
		secrets, err := meshcerts.NewSecrets(o.secrets)
		if err != nil {
			return err
		}
		store, options.Report = secrets, func(name, why string) { report("secret", secrets.Name(name), why) }
	} else {
		folder, unlock, err := meshcerts.OpenFolder(o.dir)
		if err != nil {
			return err
		}
		defer unlock()
		store, options.Report = folder, func(name, why string) { report("folder", name, why) }
	}
	if err := meshcerts.Ensure(ctx, store, options); err != nil {
		return err
	}
	if !wrote {
		fmt.Fprintln(a.Stdout, "all certificates are good; nothing was written")
	}
	return nil
}
