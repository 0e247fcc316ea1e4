// Command images makes the container images of Weir's binaries, as an OCI layout
// with a list of what is in each.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"weir.dev/e2e/cluster/images"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	flags := flag.NewFlagSet("images", flag.ContinueOnError)
	bin := flags.String("bin", "bin", "folder of the binaries")
	tag := flags.String("tag", "dev", "tag of the images")
	target := flags.String("o", "out/images", "folder to write: oci/ and sbom/; what is there is replaced")
	if err := flags.Parse(arguments); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("%q: images takes flags alone", flags.Arg(0))
	}
	all, err := images.Weir(*bin, *tag)
	if err != nil {
		return err
	}
	if err := images.WriteLayout(filepath.Join(*target, "oci"), all...); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(*target, "sbom"), 0o755); err != nil {
		return err
	}
	created := time.Now()
	for i, binary := range images.Binaries() {
		list, err := images.SBOM(all[i].Name, filepath.Join(*bin, binary), created)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(*target, "sbom", binary+".spdx.json"), list, 0o600); err != nil {
			return err
		}
		fmt.Println(all[i].Name)
	}
	fmt.Printf("as an OCI layout in %s/oci, what is in them in %s/sbom\n", *target, *target)
	return nil
}
