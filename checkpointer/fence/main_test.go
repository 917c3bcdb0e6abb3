package fence

import (
	"os"
	"testing"

	"github.com/lifeboat-dev/lifeboat/checkpointer/ramdisk"
)

func TestMain(m *testing.M) {
	ramdisk.TemporaryFolders()
	os.Exit(m.Run())
}
