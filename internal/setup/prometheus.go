package setup

import "fmt"

// prometheus is for whoever scrapes the metrics, in the two forms in which they are kept
// from everybody else: by a token on the node, and by TLS and a password over the network.
// Both are shown and not written: Prometheus' file belongs to somebody else.
func prometheus(o Options) (Plan, error) {
	const local, network = "on this node, with a token", "over the network, with TLS and a password"
	target := o.Metrics
	if target == "" {
		target = "localhost:5001"
	}
	return Plan{
		Files: []File{
			{Path: "/etc/berth/config.yaml", When: local, Merge: true, Content: "admin: {token_file: metrics-token}\n"},
			{Path: o.File, When: local, Merge: true, Content: fmt.Sprintf(`scrape_configs:
  - job_name: berth
    authorization: {credentials_file: /etc/prometheus/berth-token}
    static_configs:
      - targets: [%q]
`, target)},
			{Path: "/etc/berth/config.yaml", When: network, Merge: true, Content: "admin: {address: \"0.0.0.0:5001\", web_config_file: web.yaml}\n"},
			{Path: "/etc/berth/web.yaml", When: network, Content: `tls_server_config: {cert_file: tls.crt, key_file: tls.key}
basic_auth_users: {prometheus: "BCRYPT_HASH"}   # htpasswd -nBC 10 "" | tr -d ':'
`},
			{Path: o.File, When: network, Merge: true, Content: `scrape_configs:
  - job_name: berth
    scheme: https
    basic_auth: {username: prometheus, password_file: /etc/prometheus/berth-password}
    tls_config: {ca_file: /etc/prometheus/berth-ca.pem}
    static_configs:
      - targets: ["NODE:5001"]
`},
		},
		Then: []string{
			"openssl rand -hex 32 | sudo install -m 0640 -g berth /dev/stdin /etc/berth/metrics-token   # with a token",
			"sudo install -m 0640 -g prometheus /etc/berth/metrics-token /etc/prometheus/berth-token    # with a token",
			"sudo systemctl restart berth",
			"sudo systemctl reload prometheus",
		},
		Notes: []string{
			"without either, every program on this node reads the metrics, which name organisations and their accounts",
			"a new token is good at once: put it into both files",
			"/healthz and /readyz ask for no token, and for the password where there is one",
			"alerts and a dashboard are in observability/, which the package puts into /usr/share/doc/berth",
		},
	}, nil
}
