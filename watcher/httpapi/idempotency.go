package httpapi

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

const (
	// labelKey on what a request created has the hash of the caller's name and of the
	// request's Idempotency-Key. Whoever gets the request again, another replica or this
	// one after a restart, finds by it what the first one came to.
	labelKey = "lifeboat.dev/idempotency-key"
	// annotationBody has the hash of what was asked for.
	annotationBody = "lifeboat.dev/idempotency-body"
	// annotationRequestedBy is the name of the user who asked for a move.
	annotationRequestedBy = "lifeboat.dev/requested-by"
	// hashLength is how much of a hash is kept: a label has at most 63 characters.
	hashLength = 40
)

// Key is the header by which a request is made no more than once.
type Key struct {
	IdempotencyKey string `header:"Idempotency-Key" maxLength:"255" doc:"Any text, new for each thing that is asked for. A request that is sent again with it is not done again: it is answered with what the first one came to. It counts for the caller and as long as the Migration exists; with another body it is refused"`
}

// request is what makes a request the same as an earlier one. A zero one is like no other.
type request struct{ key, body string }

// requestOf is a request as it is kept. Asked is what was asked for, of which.
func requestOf(user, key string, asked ...any) (request, error) {
	if key == "" {
		return request{}, nil
	}
	body, err := json.Marshal(asked)
	if err != nil {
		return request{}, fmt.Errorf("write the request down: %w", err)
	}
	name, err := json.Marshal([]string{user, key})
	if err != nil {
		return request{}, fmt.Errorf("write the Idempotency-Key down: %w", err)
	}
	return request{key: hash(name), body: hash(body)}, nil
}

func hash(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])[:hashLength]
}

// mark keeps the request with what it creates.
func (r request) mark(m *v1alpha1.Migration) {
	if r.key == "" {
		return
	}
	setKey(&m.Labels, labelKey, r.key)
	setKey(&m.Annotations, annotationBody, r.body)
}

// made are those of the Migrations that the request came to when it was made before. It
// is a problem when that was another request with the same key.
func (r request) made(known []v1alpha1.Migration) ([]v1alpha1.Migration, error) {
	var made []v1alpha1.Migration
	for _, m := range known {
		if r.key == "" || m.Labels[labelKey] != r.key {
			continue
		}
		if m.Annotations[annotationBody] != r.body {
			return nil, problem(http.StatusUnprocessableEntity, reasonKeyReused, "use a new Idempotency-Key for each thing that is asked for",
				"the Idempotency-Key was used for something else: it led to Migration %s/%s", m.Namespace, m.Name)
		}
		made = append(made, m)
	}
	return made, nil
}

func setKey(keys *map[string]string, key, value string) {
	if *keys == nil {
		*keys = map[string]string{}
	}
	(*keys)[key] = value
}
