"""Work that is shared by processes, of this machine or of others: blocks are tasks, answers come in order."""
