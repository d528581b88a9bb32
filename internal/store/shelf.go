package store

import (
	"encoding/json"
	"fmt"
)

// MaxItem bounds an item's document.
const MaxItem = 64 << 10

// Item is a small document of the server's own: a webhook, an event that could not be delivered, a lease. What it means is
// its writer's business.
type Item struct {
	Kind string
	ID   string
	Doc  json.RawMessage
}

// Check refuses items that no shelf holds.
func (i Item) Check() error {
	if i.Kind == "" || i.ID == "" || len(i.Doc) == 0 || len(i.Doc) > MaxItem {
		return fmt.Errorf("storing an item %q of kind %q with %d bytes: kind, id and 1 to %d bytes are needed", i.ID, i.Kind, len(i.Doc), MaxItem)
	}
	return nil
}

// Shelf holds items. Updates of a namespace are serial, so that reading an item and writing it in one Update is a
// compare-and-swap.
type Shelf interface {
	Put(Item) error // inserts or replaces
	Get(kind, id string) (Item, error)
	// List is ascending by id: those of a kind whose ids begin with prefix and come after one; limit ≤ 0 means all.
	List(kind, prefix, after string, limit int) ([]Item, error)
	Delete(kind, id string) error
}
