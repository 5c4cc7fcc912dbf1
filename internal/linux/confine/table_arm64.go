package confine

// deadlyHere are calls that this architecture alone has.
func deadlyHere() []call { return nil }
