package pages

import (
	"os"
	"testing"
)

// roleVariable makes a copy of the test program something else.
const roleVariable = "LIFEBOAT_PAGES_ROLE"

var roles = map[string]func(){"guest": guestMain}

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		roles[role]()
		os.Exit(0)
	}
	os.Exit(m.Run())
}
