package coordinator

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/valkey-io/valkey-go"
)

// ACL is the line of an ACL file that makes a node's user. He writes under his own
// prefix and reads others'; hints are everybody's. What enumerates or empties the
// engine is refused, and so are scripts. The password stands where PASSWORD is.
func ACL(node string) string {
	return fmt.Sprintf("user %s on >PASSWORD resetkeys resetchannels -@all +hello +auth +ping +set +getrange +pexpire +del "+
		"%%W~berth:node:%s:* %%R~berth:node:* ~berth:lease:* ~berth:who:* ~berth:slot:*", node, node)
}

// CheckRights finds out whether this node's user may do more than he should. nil: he
// may not.
func (c *Coordinator) CheckRights(ctx context.Context) error {
	const why = "another node could speak in this one's name"
	for _, tried := range []struct {
		what    string
		command func(valkey.Builder) valkey.Completed
	}{
		{"write under another node's prefix: " + why, func(b valkey.Builder) valkey.Completed {
			return b.Set().Key("berth:node:" + c.node + ".other:check").Value("").PxMilliseconds(1).Build()
		}},
		{"list keys: names of what organisations keep would be seen", func(b valkey.Builder) valkey.Completed {
			return b.Scan().Cursor(0).Count(1).Build()
		}},
		{"run scripts", func(b valkey.Builder) valkey.Completed { return b.Eval().Script("return 1").Numkeys(0).Build() }},
	} {
		_, err := c.ask(ctx, func(b valkey.Builder) valkey.Commands { return valkey.Commands{tried.command(b)} })
		switch refusal, ok := valkey.IsValkeyErr(err); {
		case err == nil:
			return fmt.Errorf("the coordinator's user %s may %s", c.node, tried.what)
		case !ok:
			return err
		case !strings.HasPrefix(refusal.Error(), "NOPERM"):
			return errors.New("asking what the user may do: " + refusal.Error())
		}
	}
	return nil
}
