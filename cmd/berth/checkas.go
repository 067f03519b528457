package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// serviceUser is who the node runs as where it is a service.
const serviceUser = "berth"

// ofTheService says whether the service reads this file, or one beside it. What lies
// elsewhere is tried by hand, by whoever starts berth with it.
func ofTheService(file string) bool {
	path, err := filepath.Abs(file)
	return err == nil && strings.HasPrefix(path, filepath.Dir(defaultConfig)+"/")
}

// identityFor is as whom file and what it names are to be looked at; nil: as the user
// that runs this command.
func identityFor(name, file string) (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		if name != "" {
			return nil, errors.New("only root can check as another user: use sudo, or leave out --user")
		}
		return nil, nil //nolint:nilnil // as this command's user
	}
	if name == "" && !ofTheService(file) {
		return nil, nil //nolint:nilnil // likewise
	}
	u, err := user.Lookup(orServiceUser(name))
	if _, unknown := errors.AsType[user.UnknownUserError](err); unknown && name == "" {
		return nil, nil //nolint:nilnil // likewise: there is no service
	}
	if err != nil {
		return nil, err
	}
	return credentialOf(u)
}

func orServiceUser(name string) string {
	if name == "" {
		return serviceUser
	}
	return name
}

func credentialOf(u *user.User) (*syscall.Credential, error) {
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("user %s: %w", u.Username, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("user %s: %w", u.Username, err)
	}
	if uid == 0 {
		return nil, nil //nolint:nilnil // root it is
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// checkArgs say again what this command was asked for.
func checkArgs(main, file, image, organisation string, inJSON bool) []string {
	args := []string{"check", file}
	for flag, value := range map[string]string{"--config": main, "--image": image, "--org": organisation} {
		if value != "" {
			args = append(args, flag, value)
		}
	}
	if inJSON {
		args = append(args, "--json")
	}
	return args
}

// checkAs runs this command again as somebody else: no arithmetic with owners
// and modes says as surely what he can read.
func checkAs(c *cobra.Command, id *syscall.Credential, args []string) error {
	again := exec.CommandContext(c.Context(), "/proc/self/exe", args...) //nolint:gosec // G204: this program
	again.Args[0] = "berth"
	again.SysProcAttr = &syscall.SysProcAttr{Credential: id}
	again.Stdout, again.Stderr = c.OutOrStdout(), c.ErrOrStderr()
	err := again.Run()
	if _, ended := errors.AsType[*exec.ExitError](err); ended {
		return errSaid
	}
	if err != nil {
		return fmt.Errorf("checking as user %d: %w", id.Uid, err)
	}
	return nil
}
