"""Who runs next and what a pass computes. Policy only: nothing in here touches a tensor."""
