package command

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"

	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/identity"
)

// fileKeys are the keys of namespaces, as a file has them.
type fileKeys map[string]map[string][32]byte

// readKeyFile reads one Secret or a list of Secrets, as JSON. Those that have no
// keys of a namespace are passed over.
func readKeyFile(name string) (fileKeys, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read the keys: %w", err)
	}
	var list corev1.SecretList
	var one corev1.Secret
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("keys in %s: %w: write the file with kubectl get secrets -o json", name, err)
	}
	if err := json.Unmarshal(text, &one); err != nil {
		return nil, fmt.Errorf("keys in %s: %w", name, err)
	}
	keys := fileKeys{}
	for _, secret := range append(list.Items, one) {
		namespace, ok := identity.KeyNamespace(secret.Name)
		if !ok {
			continue
		}
		keys[namespace] = map[string][32]byte{}
		for id, raw := range secret.Data {
			if len(raw) != 32 {
				return nil, fmt.Errorf("keys in %s: entry %q of Secret %s has %d bytes in place of 32", name, id, secret.Name, len(raw))
			}
			keys[namespace][id] = [32]byte(raw)
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("keys in %s: there is no Secret with the keys of a namespace", name)
	}
	return keys, nil
}

// Key is not needed to read, and returns an error.
func (k fileKeys) Key(_ context.Context, namespace string) (string, [32]byte, error) {
	return "", [32]byte{}, fmt.Errorf("key to write with, of namespace %s: %w", namespace, fs.ErrPermission)
}

// KeyByID returns a key of the file.
func (k fileKeys) KeyByID(_ context.Context, namespace, id string) ([32]byte, error) {
	key, ok := k[namespace][id]
	if !ok {
		return key, fmt.Errorf("key %q of namespace %s is not in the key file: %w", id, namespace, fs.ErrNotExist)
	}
	return key, nil
}
