// Package buildinfo says which build of Weir is running.
package buildinfo

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is set by the linker for releases: -X weir.dev/kit/buildinfo.version=v1.2.3.
var version = "dev"

// Version is the release, or "dev" for a build from a checkout.
func Version() string { return version }

// String is a one-line description: version, revision when known, toolchain
// and platform.
func String() string {
	revision := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" && len(setting.Value) >= 12 {
				revision = " " + setting.Value[:12]
			}
		}
	}
	return fmt.Sprintf("%s%s %s %s/%s", version, revision, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
