package images

import (
	"path/filepath"
)

// Binaries are those of Weir's that have an image each.
func Binaries() []string {
	return []string{"weir", "controlplaned", "extauthzd", "ratelimitd", "ratelimit", "userd", "datad"}
}

// Weir makes the images of Weir's binaries in the folder bin, called
// docker.io/weir/BINARY:TAG.
func Weir(bin, tag string) ([]Image, error) {
	var all []Image
	for _, binary := range Binaries() {
		image, err := Static("docker.io/weir/"+binary+":"+tag, filepath.Join(bin, binary))
		if err != nil {
			return nil, err
		}
		image.Labels = map[string]string{
			"org.opencontainers.image.title": binary, "org.opencontainers.image.version": tag, "org.opencontainers.image.licenses": "Apache-2.0",
		}
		all = append(all, image)
	}
	return all, nil
}

// Envoy makes an image of an Envoy binary of this machine, called as Envoy's own
// image is, for clusters that pull nothing.
func Envoy(binary, version string) (Image, error) {
	files, err := Dynamic(binary, "/usr/local/bin/envoy")
	return Image{Name: "docker.io/envoyproxy/envoy:v" + version, Files: files, Entrypoint: []string{"/usr/local/bin/envoy"}}, err
}
