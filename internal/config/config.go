package config

import (
	"net/netip"
	"time"

	"berth/internal/fileid"
)

// Config is what the configuration file says, checked, with every default
// filled in. It is not written to after it was returned; a reload makes a new one.
//
// In the file every key is optional unless its comment says "Required".
// Relative file names are relative to the file that holds them; here they are
// absolute. A change takes effect on reload (SIGHUP or "berth reload") unless
// the comment says "Needs a restart." Durations are written as 60s, 5m, 24h or 7d.
type Config struct {
	// Where pulls are answered, one entry for each port. Default: one listener
	// on localhost:5000, open, for nobody. An empty list is an error. Adding or
	// removing an entry needs a restart.
	Listeners []Listener `yaml:"listeners"`

	// Registries by the name that users write, such as registry.example.com or
	// reg.acme.com:5443 (which is reg.acme.com_5443 in the path of an image
	// name). A built-in registry may be adjusted under its own name, not under an
	// alias. No name or alias may occur twice, in either form. Default: the
	// built-in registries only.
	Registries map[string]Registry `yaml:"registries"`

	// Organisations by name: lower-case letters and digits, with single dots,
	// dashes or underscores between them. An organisation may not be called like
	// a registry or its alias. Default: none, so that every caller is nobody and
	// sees public images only.
	Organisations map[string]Organisation `yaml:"organisations"`

	// Folder of drop-ins: NAME.yaml each, with what would stand below
	// organisations.NAME. A drop-in that is bad is reported and puts out only its
	// own organisation; if the organisation is in the main file too, the main
	// file's entry stands. Files that a drop-in names must lie in the folder NAME
	// beside it. Default: organisations.d beside the main file, if there is one.
	OrganisationsDirectory string `yaml:"organisations_directory"`

	// What organisations may do with registries of their own.
	OrganisationRegistries OrganisationRegistries `yaml:"organisation_registries"`

	// What everyone may pull. An organisation's own can only narrow it.
	Policy Policy `yaml:"policy"`

	// What becomes of a registry that is not configured here. "refuse": 403, and no name
	// is looked up. "public": any host is asked, over https with a public certificate, at
	// public addresses only, and as nobody: images of such registries are the public ones.
	// At most 64 at a time; in metrics they are "other". Default: refuse.
	UnlistedRegistries Unlisted `yaml:"unlisted_registries"`

	// Credential helpers that credentials in the main file may use: ecr-login
	// stands for the program docker-credential-ecr-login in the service's PATH.
	// Default: none. Drop-ins may not use helpers.
	Helpers []string `yaml:"helpers"`

	// What this node shares with others, so that registries see one copy of what many
	// pull. Without it a node is alone. Default: none. Needs a restart.
	Fleet *Fleet `yaml:"fleet" restart:"yes"`

	// What is kept on this node's disk, where, and for how long it may be trusted.
	Cache Cache `yaml:"cache"`

	// How registries are reached.
	Upstream Upstream `yaml:"upstream"`

	// Metrics, health and status for operators; nothing of it is on a listener.
	Admin Admin `yaml:"admin"`

	// The log, on standard error.
	Log Log `yaml:"log"`

	// Who was given which image, and who was not: see audit.md.
	Audit Audit `yaml:"audit"`

	// Where the time of a pull goes, for OpenTelemetry.
	Tracing Tracing `yaml:"tracing"`

	// Bounds for /metrics.
	Metrics Metrics `yaml:"metrics"`

	// Broken holds the drop-ins that could not be used, by organisation, and why.
	// After a reload an organisation may be here and in Organisations too: then it
	// goes on with what it had before its drop-in went bad. One that is only here
	// is out: its callers are told to try later, not that they are unknown.
	Broken map[string]error `yaml:"-"`
	// Warnings are things that are allowed but hardly meant, each with its place
	// in the file.
	Warnings []string `yaml:"-"`
	// Files says what was read: the main file under "", drop-ins under their
	// organisation. Empty when there is no file.
	Files map[string]File `yaml:"-"`

	opts     Options
	names    *names
	warnings map[string]Problems // by organisation, "" for the main file
	complete bool                // the drop-ins were read
	// listenersAt is where in the main file the listeners stand.
	listenersAt positions
}

// OrganisationRegistries limits the registries that organisations bring.
type OrganisationRegistries struct {
	// Whether organisations may have registries of their own. Default: true.
	Allow bool `yaml:"allow"`

	// Private networks (CIDR) that an organisation's registry may list in its own
	// allow_private, and so be reached at. Whatever is listed here is open to every
	// organisation. Default: none.
	AllowPrivate []netip.Prefix `yaml:"allow_private"`
}

// Cache says what is kept on disk.
type Cache struct {
	// The folder. One process at a time uses it. Default: $CACHE_DIRECTORY (set by
	// systemd), else $XDG_CACHE_HOME/berth, else ~/.cache/berth, else
	// /var/cache/berth. Needs a restart.
	Directory string `yaml:"directory" restart:"yes"`

	// The most that images may take: a share of the file system (20%) or bytes
	// (500MB, 10GiB). Default: 20%. Needs a restart.
	MaxSize Size `yaml:"max_size" restart:"yes"`

	// What must stay free on the file system, whatever max_size allows. Written
	// like max_size. Default: 10%. Needs a restart.
	MinFree Size `yaml:"min_free" restart:"yes"`

	// How long the meaning of a tag is believed before the registry is asked
	// again; 0s asks every time. Default: 60s. At most 24h.
	TagTTL time.Duration `yaml:"tag_ttl"`

	// How long an organisation's proven right to a repository is believed before
	// it is proven again; so a right that was withdrawn works on for at most this
	// long. Default: 5m. At most 24h, and not 0s.
	AccessTTL time.Duration `yaml:"access_ttl"`

	// For how long after its last proof an organisation is still served cached
	// images while the registry is in trouble; 0s: not at all. Default: 24h. At
	// most 30d, when unused proofs are dropped.
	Grace time.Duration `yaml:"grace"`

	// The same once the registry, or something before it, has answered, and neither
	// yes nor no: a login page, a redirect to one, a 400, 409 or 429. It holds until the
	// registry says yes again, also if it falls silent meanwhile; 0s: such an answer
	// releases nothing. Where grace is shorter, that holds. Default: 1h. At most 30d.
	Doubt time.Duration `yaml:"doubt"`
}

// Upstream says how registries are reached.
type Upstream struct {
	// Connections that one large download may use at once, 1 to 64. Not more than
	// connections. If this is more than 1, a client that reads far ahead of the others
	// briefly gets an extra connection. Default: 4. Needs a restart.
	Parallel int `yaml:"parallel" restart:"yes"`

	// Connections to one registry at once, 1 to 1024: so many for blobs and so many
	// for everything else; questions about rights may have four times as many. One
	// organisation gets three quarters of them. Default: 16. Needs a restart.
	Connections int `yaml:"connections" restart:"yes"`

	// Bytes a second that come from all registries together, such as 100MiB; all
	// downloads share them. At least 64KiB. 0: any number. Default: 0.
	Bandwidth Size `yaml:"bandwidth"`

	// An HTTP proxy that every upstream request goes through, as
	// http://proxy.example.com:3128, without user name, path or query. The
	// environment (HTTPS_PROXY and so on) is never asked. Default: none. Needs a
	// restart.
	Proxy string `yaml:"proxy" restart:"yes"`
}

// Admin is what operators look at.
type Admin struct {
	// Where /metrics, /healthz, /readyz and the status page are served; written
	// like a listener's address. An address that others can reach needs
	// web_config_file. Without that and token_file every program of this node reads
	// the metrics, which name organisations; the page then names none. Empty:
	// nowhere. Default: localhost:5001. Needs a restart.
	Address Address `yaml:"address" restart:"yes"`

	// A web configuration file of the Prometheus exporter toolkit: TLS and basic
	// authentication for this address. Default: none. Needs a restart.
	WebConfigFile string `yaml:"web_config_file" restart:"yes"`

	// A file with a token that /metrics and the page ask for, as a secret file:
	// "Authorization: Bearer TOKEN". It is read for each request, so a new one is
	// good at once. Default: none. Needs a restart.
	TokenFile string `yaml:"token_file" restart:"yes"`

	// The Unix socket that commands such as "berth status" talk to. Failing to
	// make it never stops pulls. Empty: no socket. Default: /run/berth/admin.sock;
	// without root admin.sock in $RUNTIME_DIRECTORY (set by systemd), else
	// $XDG_RUNTIME_DIR/berth/admin.sock. At most 107 bytes. Needs a restart.
	Socket string `yaml:"socket" restart:"yes"`
}

// Log is how the log looks.
type Log struct {
	// The least that is written: debug, info, warn or error. Default: info.
	Level Level `yaml:"level"`

	// Either text or json. Default: text. Needs a restart.
	Format Format `yaml:"format" restart:"yes"`
}

// Audit says where the audit goes.
type Audit struct {
	// The file that gets one JSON line for each decision about an image; "-" is
	// standard output. A reload opens it anew. Where it cannot be written pulls go
	// on, and lines that are lost are counted. Empty: nowhere. Default: empty.
	File string `yaml:"file"`
}

// Tracing says where spans go.
type Tracing struct {
	// The collector that gets spans, by OTLP over HTTP, as http://localhost:4318. A
	// trace that a client is in goes on (W3C Trace Context). Empty: that of
	// OTEL_EXPORTER_OTLP_ENDPOINT; without that, nothing is traced. Default: empty.
	// Needs a restart.
	Endpoint string `yaml:"endpoint" restart:"yes"`
}

// Metrics bounds the metrics.
type Metrics struct {
	// Above this many series an organisation that appears for the first time is
	// counted as "other". 100 to 1000000. Default: 20000. Needs a restart.
	MaxSeries int `yaml:"max_series" restart:"yes"`
}

// Unlisted is what becomes of registries that are not configured.
type Unlisted string

// The values of unlisted_registries.
const (
	UnlistedRefuse Unlisted = "refuse"
	UnlistedPublic Unlisted = "public"
)

// Values are those of unlisted_registries.
func (Unlisted) Values() []string { return []string{string(UnlistedRefuse), string(UnlistedPublic)} }

// Level is how much is logged.
type Level string

// Values are those of log.level.
func (Level) Values() []string { return []string{"debug", "info", "warn", "error"} }

// Format is how a log line looks.
type Format string

// Values are those of log.format.
func (Format) Values() []string { return []string{"text", "json"} }

// File is one file that was read.
type File struct {
	Path string
	// SHA256 of the whole file, in hex; empty when it could not be read.
	SHA256 string
	// Stamp tells, without reading it, whether what lies there now is what was read.
	Stamp fileid.Stamp
}

// Is says that f has the content of other, and its name.
func (f File) Is(other File) bool { return f.Path == other.Path && f.SHA256 == other.SHA256 }
