package node

import (
	"context"
	"fmt"

	"berth/auth/credential"
	"berth/internal/config"
	"berth/internal/secret"
)

// CallerToken reads a token from file that is to stand in a client's configuration: one of
// organisation's that is for headers.
func CallerToken(cfg *config.Config, organisation, file string) (none secret.Text, err error) {
	login, err := credential.PasswordFile(credential.File{Path: file}, "").Login(context.Background())
	if err != nil {
		return none, err
	}
	hash := config.HashOf(login.Password.Reveal())
	for _, t := range cfg.Organisations[organisation].Tokens {
		switch {
		case t.SHA256 != hash:
		case t.For != config.ForHeader:
			return none, fmt.Errorf("the token in %s is for logins, and whatever stands in a client's file may be shown to others: make another, and list it with for: header in the tokens of organisation %s", file, organisation)
		default:
			return login.Password, nil
		}
	}
	return none, fmt.Errorf("the token in %s is none of organisation %s: make one with berth token %[2]s, and list it with for: header", file, organisation)
}
