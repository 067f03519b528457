package setup

import (
	"cmp"
	"fmt"
)

// Fleet is what a fleet's engines have to know of it.
type Fleet struct {
	// Configured says that the configuration has a fleet.
	Configured bool
	// Node is this node's user, and ACL the line that makes it, with PASSWORD in it.
	Node, ACL string
	// Bucket is its name.
	Bucket string
	// Days is after how many the bucket may delete what was written.
	Days int
}

// fleet is what the fleet's engines need, and this node where it has none yet. All is
// shown and nothing written: the engines are on other machines.
func fleet(o Options) (Plan, error) {
	f := o.Fleet
	name := cmp.Or(f.Bucket, "BUCKET")
	var files []File
	if !f.Configured {
		files = append(files, File{Path: "/etc/berth/config.yaml", When: "on each node, with a username of its own", Merge: true, Content: `fleet:
  zone: fra1                       # nodes that share the bucket
  key_file: secrets/fleet
  bucket: {endpoint: "https://s3.example.com", name: BUCKET, access_key_file: secrets/bucket}
  coordinator: {address: "valkey.example.com:6380", username: NODE, password_file: secrets/valkey}
`})
	}
	return Plan{
		Files: append(files,
			File{Path: o.File, When: "where Valkey or Redis runs, from version 7 on: a line for each node", Merge: true, Content: f.ACL + "\n"},
			File{Path: "/etc/valkey/valkey.conf", When: "there too", Merge: true, Content: `aclfile ` + o.File + `
port 0
tls-port 6380
tls-cert-file /etc/valkey/tls.crt
tls-key-file /etc/valkey/tls.key
tls-auth-clients no
maxmemory 256mb
maxmemory-policy allkeys-lru
proto-max-bulk-len 1mb
save ""
`},
			File{Path: "policy.json", When: "of the bucket's user, or of the nodes' role; in the form of Amazon's", Content: fmt.Sprintf(`{
  "Version": "2012-10-17",
  "Statement": [
    {"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject"], "Resource": "arn:aws:s3:::%s/v1/*"}
  ]
}
`, name)},
			File{Path: "lifecycle.json", When: "of the bucket: nothing else deletes", Content: fmt.Sprintf(`{
  "Rules": [
    {"ID": "berth", "Status": "Enabled", "Filter": {"Prefix": "v1/"}, "Expiration": {"Days": %d}}
  ]
}
`, f.Days)},
		),
		Then: []string{
			"openssl rand -hex 32 | sudo install -D -m 0640 -g berth /dev/stdin /etc/berth/secrets/fleet   # on one node; copy the file to the others",
			"sudo install -D -m 0640 -g berth /dev/stdin /etc/berth/secrets/bucket   # paste ACCESS-KEY-ID:SECRET, and Ctrl-D",
			"sudo install -D -m 0640 -g berth /dev/stdin /etc/berth/secrets/valkey   # paste what stands for PASSWORD, and Ctrl-D",
			"aws s3api put-bucket-lifecycle-configuration --bucket " + name + " --lifecycle-configuration file://lifecycle.json",
			"sudo systemctl restart berth",
			"berth diagnose fleet",
		},
		Notes: []string{
			"the user may write only below its node's name: so nobody speaks for another node, and the log can say which one wrote what was wrong",
			"a node needs no right to list or delete, neither in the bucket nor in Valkey",
			"private images are shared among the nodes that have the organisation's fleet_key_file; doc/fleet.md says how to roll it",
			"days in the lifecycle rule: not fewer, since what was written is announced for a day less than that",
		},
	}, nil
}
