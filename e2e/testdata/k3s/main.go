// Program k3s reads a registries.yaml as k3s and RKE2 do, by their own library, and writes
// what they understand as JSON.
package main

import (
	"encoding/json"
	"os"

	"github.com/rancher/wharfie/pkg/registries"
)

func main() {
	r, err := registries.GetPrivateRegistries(os.Args[1])
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(r.Registry)
	}
	if err != nil {
		println(err.Error())
		os.Exit(1)
	}
}
