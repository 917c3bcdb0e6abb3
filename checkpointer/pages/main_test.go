package pages_test

import (
	"os"
	"testing"

	"github.com/lifeboat-dev/lifeboat/checkpointer/criu/nodetest"
	"github.com/lifeboat-dev/lifeboat/checkpointer/pages"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(pages.RoleVariable); role != "" {
		pages.Roles[role]()
		return
	}
	nodetest.Main(m, map[string]func([]string){"bulk": bulk})
}
