package fence

import (
	"os"
	"testing"
	"time"

	"github.com/lifeboat-dev/lifeboat/checkpointer/steady"
)

func TestMain(m *testing.M) {
	steady.TemporaryFolders()
	os.Exit(steady.Main(m.Run, 100*time.Millisecond))
}
