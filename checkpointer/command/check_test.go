package command

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/identity"
)

// checkedStore is a store with two generations of one pod and one of another,
// and a file with its keys.
func checkedStore(t *testing.T) (dir, keyFile string) {
	t.Helper()
	dir = t.TempDir()
	clientset := fake.NewClientset()
	s, err := store.Open(dir, identity.NewNamespaceKeys(clientset, "lifeboat-system"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() }) // check runs beside it
	staged := t.TempDir()
	for i, key := range []store.Key{{Namespace: "shop", PodUID: "cart"}, {Namespace: "shop", PodUID: "cart"}, {Namespace: "bank", PodUID: "ledger"}} {
		if err := os.WriteFile(filepath.Join(staged, "core.img"), bytes.Repeat([]byte{byte(i)}, 1000), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Seal(t.Context(), key, store.Generation{TakenAt: time.Unix(1_700_000_000, 0)}, staged, nil); err != nil {
			t.Fatal(err)
		}
	}
	secrets, err := clientset.CoreV1().Secrets("lifeboat-system").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	secrets.Items = append(secrets.Items, corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "lifeboat-ca"}, Data: map[string][]byte{"tls.key": []byte("x")}})
	return dir, writeSecrets(t, secrets)
}

func writeSecrets(t *testing.T, content any) string {
	t.Helper()
	text, err := json.Marshal(content)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// runCheck returns what check prints, without the padding, and its exit code.
func runCheck(t *testing.T, args ...string) (rows []string, code int, err error) {
	t.Helper()
	var out bytes.Buffer
	cmd := New()
	cmd.SetOut(&out)
	cmd.SetArgs(append([]string{"check"}, args...))
	err = cmd.ExecuteContext(t.Context())
	for line := range strings.Lines(out.String()) {
		rows = append(rows, strings.Join(strings.Fields(line), " "))
	}
	return rows, ExitCode(err), err
}

func TestCheck(t *testing.T) {
	dir, keyFile := checkedStore(t)
	rows, code, err := runCheck(t, "--store", dir, "--key-file", keyFile)
	if code != 0 || len(rows) != 4 || rows[0] != "NAMESPACE POD GENERATION TAKEN FILES BYTES STATE" ||
		!strings.HasPrefix(rows[1], "bank ledger 1 2023-11-14T22:13:20Z 2 ") || !strings.HasSuffix(rows[1], " whole") ||
		!strings.HasPrefix(rows[2], "shop cart 2 ") || !strings.HasPrefix(rows[3], "shop cart 1 ") {
		t.Errorf("exit %d, %v:\n%s", code, err, strings.Join(rows, "\n"))
	}

	manifest := filepath.Join(dir, "shop", "cart", "manifests", "1.man")
	content, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)-1] ^= 1
	if err := os.WriteFile(manifest, content, 0o600); err != nil {
		t.Fatal(err)
	}
	rows, code, err = runCheck(t, "--store", dir, "--key-file", keyFile)
	if code != exitDamaged || len(rows) != 4 || rows[3] != "shop cart 1 - - - damaged: manifests/1.man: it was altered or cut short" || !strings.Contains(err.Error(), "1 of 3 generations are damaged") {
		t.Errorf("exit %d, %v:\n%s", code, err, strings.Join(rows, "\n"))
	}

	// Without a key it is not known whether a generation is whole.
	only := writeSecrets(t, corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "lifeboat-key-shop"}, Data: map[string][]byte{"key-0001": make([]byte, 32)}})
	rows, code, err = runCheck(t, "--store", dir, "--key-file", only)
	if code != exitUnchecked || len(rows) != 4 || !strings.Contains(rows[1], "- unreadable: written with key") || !strings.Contains(err.Error(), "3 of 3 generations could not be checked") {
		t.Errorf("exit %d, %v:\n%s", code, err, strings.Join(rows, "\n"))
	}
}

func TestCheckOfWhatIsNotThere(t *testing.T) {
	dir, keyFile := checkedStore(t)
	short := writeSecrets(t, corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "lifeboat-key-shop"}, Data: map[string][]byte{"key-0001": make([]byte, 31)}})
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("key"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no store":        {[]string{"--store", dir + "/none", "--key-file", keyFile}, "open store"},
		"no key file":     {[]string{"--store", dir, "--key-file", dir + "/none"}, "read the keys"},
		"no JSON":         {[]string{"--store", dir, "--key-file", text}, "kubectl get secrets -o json"},
		"no keys in it":   {[]string{"--store", dir, "--key-file", writeSecrets(t, corev1.SecretList{})}, "no Secret with the keys"},
		"a key too short": {[]string{"--store", dir, "--key-file", short}, "31 bytes in place of 32"},
		"no cluster":      {[]string{"--store", dir}, "--key-file"},
		"an unknown flag": {[]string{"--stor", dir}, "unknown flag"},
		"an argument":     {[]string{dir}, "unknown command"},
		"a negative rate": {[]string{"--store", dir, "--key-file", keyFile, "--bytes-per-second", "-1"}, "negative"},
	} {
		t.Run(name, func(t *testing.T) {
			_, code, err := runCheck(t, c.args...)
			if code != exitUnchecked || err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("exit %d, %v", code, err)
			}
		})
	}
}
