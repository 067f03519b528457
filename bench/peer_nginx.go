package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
)

// nginxRecipe is nginx with proxy_cache: one download for all who want the same
// (proxy_cache_lock), a worker for each core, connections to the registry kept,
// and the access log that its package has on.
func nginxRecipe() recipe {
	return recipe{name: "nginx", command: nginxCommand,
		find: func(context.Context, *bench) (string, error) {
			for _, name := range []string{"nginx", "/usr/sbin/nginx"} {
				if path, err := exec.LookPath(name); err == nil {
					return path, nil
				}
			}
			return "", errors.New("it is not installed (Debian: apt-get install nginx)")
		}}
}

func nginxCommand(ctx context.Context, program, dir, address string, at origin) (*exec.Cmd, error) {
	config := filepath.Join(dir, "nginx.conf")
	login := base64.StdEncoding.EncodeToString([]byte(upstreamUser + ":" + upstreamPassword))
	scheme, host := "http", at.url[len("http://"):]
	if at.caFile != "" {
		scheme, host = "https", at.url[len("https://"):]
	}
	c := exec.CommandContext(ctx, program, "-p", dir, "-c", config) //nolint:gosec // G204: what find gave
	return c, write(config, fmt.Sprintf(`daemon off;
user root;
pid %[1]s/pid;
error_log %[1]s/error.log;
worker_processes auto;
events { worker_connections 1024; }
http {
  access_log %[1]s/access.log;
  sendfile on;
  tcp_nopush on;
  client_body_temp_path %[1]s/body;
  fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi;
  scgi_temp_path %[1]s/scgi;
  proxy_cache_path %[1]s/cache levels=1:2 keys_zone=all:16m max_size=20g inactive=1d use_temp_path=off;
  keepalive_requests 1000000;
  upstream registry { server %[2]s; keepalive 16; }
  server {
    listen %[3]s;
    location / {
      proxy_pass %[4]s://registry;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host %[2]s;
      proxy_set_header Authorization "Basic %[5]s";
      proxy_cache all;
      proxy_cache_key $uri;
      proxy_cache_valid 200 60s;
      proxy_cache_lock on;
      proxy_cache_lock_age 60s;
      proxy_cache_lock_timeout 60s;
    }
    location ~ /blobs/ {
      proxy_pass %[4]s://registry;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host %[2]s;
      proxy_set_header Authorization "Basic %[5]s";
      proxy_cache all;
      proxy_cache_key $uri;
      proxy_cache_valid 200 1d;
      proxy_cache_lock on;
      proxy_cache_lock_age 60s;
      proxy_cache_lock_timeout 60s;
    }
  }
}
`, dir, host, address, scheme, login))
}
