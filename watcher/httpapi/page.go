package httpapi

import (
	"encoding/base64"
	"net/http"
	"slices"
	"strings"
)

// List is one page of a list.
type List[T any] struct {
	Items []T `json:"items" doc:"The page's objects, sorted by namespace and name"`
	// Continue is empty on the last page.
	Continue string `json:"continue,omitempty" doc:"Where the next page begins: pass it on as the parameter continue. It is missing on the last page"`
}

// Page is how a page is asked for.
type Page struct {
	Limit    int    `query:"limit" default:"100" minimum:"1" maximum:"500" doc:"How many objects a page has at most"`
	Continue string `query:"continue" maxLength:"1024" doc:"What the page before said in continue"`
}

// page is the part of the objects that was asked for. A page begins after the key of
// the last object of the one before: objects that come and go meanwhile shift nothing,
// and any replica can go on.
func page[T, V any](objects []T, in Page, key func(*T) string, view func(*T) V) (*List[V], error) {
	after := ""
	if in.Continue != "" {
		raw, err := base64.RawURLEncoding.DecodeString(in.Continue)
		if err != nil || len(raw) == 0 {
			return nil, problem(http.StatusUnprocessableEntity, reasonInvalid, "pass on what the page before said, or begin without it",
				"the parameter continue is %q, which no page has said", in.Continue)
		}
		after = string(raw)
	}
	sorted := make([]*T, 0, len(objects))
	for i := range objects {
		if key(&objects[i]) > after {
			sorted = append(sorted, &objects[i])
		}
	}
	slices.SortFunc(sorted, func(a, b *T) int { return strings.Compare(key(a), key(b)) })
	list := &List[V]{Items: []V{}}
	for i, object := range sorted {
		if i == in.Limit {
			list.Continue = base64.RawURLEncoding.EncodeToString([]byte(key(sorted[i-1])))
			break
		}
		list.Items = append(list.Items, view(object))
	}
	return list, nil
}
