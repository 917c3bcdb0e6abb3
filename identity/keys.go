package identity

import (
	"context"
	"crypto/rand"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/util/retry"
)

const keySecretPrefix = "lifeboat-key-"

// keysFreshFor is how long the newest key is taken for the newest without a
// look at the Secret: a rotation is followed that much later.
const keysFreshFor = 5 * time.Minute

// refreshTimeout bounds how long a checkpoint waits for an API that does not
// answer, when a key is known already.
const refreshTimeout = 3 * time.Second

// NamespaceKeys has the keys that checkpoints are encrypted with, one Secret
// lifeboat-key-<namespace> for each namespace. Its entries are 32-byte keys by
// their IDs; IDs are key-0001, key-0002 and so on, and the highest is the one
// that new checkpoints are written with. It keeps what it read: checkpoints go
// on, and restores work, while the API does not answer.
type NamespaceKeys struct {
	secrets corev1client.SecretInterface
	own     string // the namespace of the Secrets

	mu    sync.Mutex
	known map[string]keyRing
}

// keyRing is the content of one Secret.
type keyRing struct {
	keys   map[string][32]byte
	active string
	readAt time.Time
}

// NewNamespaceKeys returns the keys that are kept in Secrets of the given
// namespace, Lifeboat's own.
func NewNamespaceKeys(clientset kubernetes.Interface, namespace string) *NamespaceKeys {
	return &NamespaceKeys{secrets: clientset.CoreV1().Secrets(namespace), own: namespace, known: map[string]keyRing{}}
}

// Key returns the newest key of a namespace, and makes the first one when
// there is none. When the API does not answer, it is the newest known.
func (n *NamespaceKeys) Key(ctx context.Context, namespace string) (id string, key [32]byte, err error) {
	ring, ok := n.cached(namespace)
	if !ok || time.Since(ring.readAt) > keysFreshFor {
		if ok {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, refreshTimeout)
			defer cancel()
		}
		fresh, err := n.ensure(ctx, namespace)
		switch {
		case err == nil:
			ring = fresh
		case !ok:
			return "", key, err
		}
	}
	return ring.active, ring.keys[ring.active], nil
}

// KeyByID returns a key that a checkpoint names. When there is no such key, the
// error wraps fs.ErrNotExist.
func (n *NamespaceKeys) KeyByID(ctx context.Context, namespace, id string) ([32]byte, error) {
	ring, ok := n.cached(namespace)
	if key, has := ring.keys[id]; ok && has {
		return key, nil
	}
	secret, err := n.secrets.Get(ctx, keySecretPrefix+namespace, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return [32]byte{}, fmt.Errorf("secret %s: %w", n.name(namespace), fs.ErrNotExist)
	}
	if err == nil {
		ring, err = n.remember(namespace, secret)
	}
	if err != nil {
		return [32]byte{}, fmt.Errorf("secret %s: %w", n.name(namespace), err)
	}
	key, has := ring.keys[id]
	if !has {
		return [32]byte{}, fmt.Errorf("secret %s has no entry %q: %w", n.name(namespace), id, fs.ErrNotExist)
	}
	return key, nil
}

// Rotate adds a key to a namespace. Other processes write with it within five
// minutes. Older keys stay, for the checkpoints that were written with them.
func (n *NamespaceKeys) Rotate(ctx context.Context, namespace string) error {
	if _, err := n.ensure(ctx, namespace); err != nil {
		return err
	}
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		secret, err := n.secrets.Get(ctx, keySecretPrefix+namespace, metav1.GetOptions{})
		if err != nil {
			return err
		}
		ring, err := parseKeys(secret.Data)
		if err != nil {
			return err
		}
		secret.Data[keyID(keyNumber(ring.active)+1)] = newKey()
		if secret, err = n.secrets.Update(ctx, secret, metav1.UpdateOptions{}); err != nil {
			return err
		}
		_, err = n.remember(namespace, secret)
		return err
	})
	if err != nil {
		return fmt.Errorf("rotate the key in secret %s: %w", n.name(namespace), err)
	}
	return nil
}

// ensure reads a namespace's Secret, and creates it when it is not there: the
// first writer wins, the others take what it wrote.
func (n *NamespaceKeys) ensure(ctx context.Context, namespace string) (keyRing, error) {
	secret, err := n.secrets.Get(ctx, keySecretPrefix+namespace, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		secret, err = n.secrets.Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: keySecretPrefix + namespace, Namespace: n.own, Labels: managedLabels},
			Type:       corev1.SecretTypeOpaque,
			Data:       map[string][]byte{keyID(1): newKey()},
		}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			secret, err = n.secrets.Get(ctx, keySecretPrefix+namespace, metav1.GetOptions{})
		}
	}
	var ring keyRing
	if err == nil {
		ring, err = n.remember(namespace, secret)
	}
	if err != nil {
		return keyRing{}, fmt.Errorf("secret %s: %w", n.name(namespace), err)
	}
	return ring, nil
}

func (n *NamespaceKeys) name(namespace string) string {
	return n.own + "/" + keySecretPrefix + namespace
}

// KeyNamespace returns the namespace whose keys a Secret of the given name has, and
// false when it is another kind of Secret.
func KeyNamespace(secret string) (namespace string, ok bool) {
	return strings.CutPrefix(secret, keySecretPrefix)
}

func (n *NamespaceKeys) cached(namespace string) (keyRing, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	ring, ok := n.known[namespace]
	return ring, ok
}

func (n *NamespaceKeys) remember(namespace string, secret *corev1.Secret) (keyRing, error) {
	ring, err := parseKeys(secret.Data)
	if err != nil {
		return keyRing{}, err
	}
	ring.readAt = time.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.known[namespace] = ring
	return ring, nil
}

func parseKeys(data map[string][]byte) (keyRing, error) {
	ring := keyRing{keys: map[string][32]byte{}}
	for id, raw := range data {
		number := keyNumber(id)
		if number == 0 {
			return keyRing{}, fmt.Errorf("entry %q: name it as %s", id, keyID(1))
		}
		if len(raw) != 32 {
			return keyRing{}, fmt.Errorf("entry %q has %d bytes in place of 32", id, len(raw))
		}
		ring.keys[id] = [32]byte(raw)
		if number > keyNumber(ring.active) {
			ring.active = id
		}
	}
	if ring.active == "" {
		return keyRing{}, fmt.Errorf("no key: add an entry %s of 32 random bytes", keyID(1))
	}
	return ring, nil
}

func keyID(number int) string { return fmt.Sprintf("key-%04d", number) }

// keyNumber returns the number in a key's ID, or 0 when it is none.
func keyNumber(id string) int {
	var number int
	if _, err := fmt.Sscanf(id, "key-%d", &number); err != nil || number < 1 || keyID(number) != id {
		return 0
	}
	return number
}

func newKey() []byte {
	key := make([]byte, 32)
	rand.Read(key)
	return key
}
