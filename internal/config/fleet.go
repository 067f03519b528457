package config

import (
	"net"
	"net/netip"
	"strings"
	"time"

	"berth/fleet/seal"
)

// Fleet is what nodes share. See fleet.md.
type Fleet struct {
	// The zone: nodes with one name here share one bucket, so they should be near each
	// other and near it. Lower-case letters, digits, dots, dashes and underscores.
	// Required.
	Zone string `yaml:"zone"`

	// A file with the fleet's key, as a secret file: 64 hexadecimal digits or 44
	// characters of base64 for 32 random bytes, as "openssl rand -hex 32" makes them.
	// The same on every node; it opens public images only. A second line may hold the
	// key before: what was written under that is still read. Required.
	KeyFile string `yaml:"key_file"`

	// Where sealed parts of images lie.
	Bucket FleetBucket `yaml:"bucket"`

	// Where nodes say who is fetching what.
	Coordinator FleetCoordinator `yaml:"coordinator"`

	// For how long a pull waits for another node that shows no sign of life; then it
	// goes to the registry. 1s to 60s. Default: 4s.
	Patience time.Duration `yaml:"patience"`

	// What clients get of a download from the fleet. "parts": each part as it arrives,
	// so that a bad one breaks the answer off at its end. "verified": nothing before all
	// of it was verified. Default: parts.
	Stream FleetStream `yaml:"stream"`
}

func (f *Fleet) setDefaults(string) {
	f.Patience, f.Stream, f.Coordinator.TLS = 4*time.Second, StreamParts, true
}

// FleetBucket is an S3-compatible bucket.
type FleetBucket struct {
	// The service's address, as https://s3.eu-central-1.amazonaws.com. If its host
	// begins with the bucket's name and a dot, the bucket is asked by host, else by path.
	// Required.
	Endpoint string `yaml:"endpoint"`

	// The bucket. Required.
	Name string `yaml:"name"`

	// The region that requests are signed for. Default: the one in an address of
	// Amazon's, else us-east-1, which most other services take.
	Region string `yaml:"region"`

	// A file with ACCESS-KEY-ID:SECRET on one line, as a secret file. A new one is used
	// within a second. Default: the machine's own role at Amazon (EC2, ECS, EKS).
	AccessKeyFile string `yaml:"access_key_file"`

	// A file with certificates (PEM) that are trusted instead of the system's. Default:
	// none.
	CAFile string `yaml:"ca_file"`
}

// FleetCoordinator is a Valkey, or a Redis from version 7 on.
type FleetCoordinator struct {
	// Its HOST:PORT. Required.
	Address string `yaml:"address"`

	// This node's user there, and its name in the fleet: one for each node. Letters as
	// in zone. Required.
	Username string `yaml:"username"`

	// A file with the user's password, as a secret file. A new one is used when the
	// node connects again. Required.
	PasswordFile string `yaml:"password_file"`

	// Whether it is reached over TLS. Default: true.
	TLS bool `yaml:"tls"`

	// A file with certificates (PEM) that are trusted instead of the system's. Default:
	// none.
	CAFile string `yaml:"ca_file"`
}

// FleetStream is what clients get of a download from the fleet.
type FleetStream string

// The values of stream.
const (
	StreamParts    FleetStream = "parts"
	StreamVerified FleetStream = "verified"
)

// Values are those of stream.
func (FleetStream) Values() []string { return []string{string(StreamParts), string(StreamVerified)} }

func (f *Fleet) resolve(in folder) {
	if f == nil {
		return
	}
	for _, name := range []*string{&f.KeyFile, &f.Bucket.AccessKeyFile, &f.Bucket.CAFile, &f.Coordinator.PasswordFile, &f.Coordinator.CAFile} {
		*name = in.absolute(*name)
	}
}

func (k *checker) fleet(f *Fleet) {
	if f == nil {
		return
	}
	k.fleetName("fleet.zone", f.Zone)
	k.required("fleet.key_file", f.KeyFile)
	k.within("fleet.patience", f.Patience, time.Second, time.Minute)
	b, c := &f.Bucket, &f.Coordinator
	k.required("fleet.bucket.name", b.Name)
	k.required("fleet.bucket.endpoint", b.Endpoint)
	if _, why := parseURL(b.Endpoint); why != "" && b.Endpoint != "" {
		k.errorf("fleet.bucket.endpoint", "this is no address of an S3 service: write it as https://s3.example.com, without user name and query")
	}
	k.fleetName("fleet.coordinator.username", c.Username)
	k.required("fleet.coordinator.password_file", c.PasswordFile)
	if k.required("fleet.coordinator.address", c.Address); c.Address == "" {
		return
	}
	host, port, err := net.SplitHostPort(c.Address)
	if err != nil || host == "" || !validPort(port) {
		k.errorf("fleet.coordinator.address", "%s is no address: write HOST:PORT, as in valkey.example.com:6380", quote(c.Address))
		return
	}
	if ip, err := netip.ParseAddr(host); !c.TLS && host != "localhost" && (err != nil || !ip.IsLoopback()) {
		k.warnf("fleet.coordinator.tls", "the user's password crosses the network in clear text: set tls: true, or make sure that nobody listens there")
	}
	if c.CAFile != "" && !c.TLS {
		k.errorf("fleet.coordinator.ca_file", "without TLS no certificate is looked at: set tls: true, or remove this")
	}
	if b.CAFile != "" && !strings.HasPrefix(b.Endpoint, "https://") {
		k.errorf("fleet.bucket.ca_file", "without https:// no certificate is looked at: correct the endpoint, or remove this")
	}
}

func (k *checker) fleetName(path, name string) {
	if k.required(path, name); name == "" {
		return
	}
	if err := seal.CheckName(name); err != nil {
		k.errorf(path, "%s is no name here: %w", quote(name), err)
	}
}
