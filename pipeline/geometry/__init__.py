"""What lies in an image and follows it: boxes, points, outlines and masks, in the members that hold them."""
