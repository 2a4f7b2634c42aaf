from flowcei.report.style import *
from flowcei.report.style import styled,new_figure
def new_axes(axes=None):
    return axes if axes is not None else new_figure(4.4, 3.4).subplots()
from flowcei.report.style import dots,colour
